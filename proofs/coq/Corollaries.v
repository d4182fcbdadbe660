(** The theorems put together. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz Permutation.
From Flocq Require Import Core BinarySingleNaN.
From PrecisionKit Require Import Model Rounding Dot Jeannerod Named TensorCore Products Ieee Relax Softmax Margin Network.
Import ListNotations.
Open Scope R_scope.

(** ** Sums of numbers: Jeannerod and Rump's theorem *)

Fixpoint without_products (t : tree) : Prop :=
  match t with Term _ => True | Prod _ => False | Add s t => without_products s /\ without_products t | Fma _ _ => False end.

Theorem sum_any_order : forall f choice t, (0 < bits f)%Z -> without_products t -> Forall (number f) (terms t) ->
  Rabs (run (RN f choice) (fun _ => 0) t - list_sum (terms t))
    <= INR (length (terms t) - 1) * unit_roundoff f * list_sum (map Rabs (terms t)).
Proof.
  intros f choice t Hf Hw Ht. assert (C := classical f Hf choice (fun _ => 0) t Ht).
  assert (L : forall g, computed f choice (fun _ => 0) g t = list_sum (map g (terms t))).
  { intros g. clear C Ht. induction t as [b|k|s IHs t IHt|k t IHt]; simpl in *; try contradiction.
    - ring.
    - destruct Hw. rewrite IHs, IHt by assumption. rewrite map_app, list_sum_app. reflexivity. }
  assert (W : weight (fun _ => 0) t = length (terms t)).
  { unfold weight. clear C L Ht. induction t as [b|k|s IHs t IHt|k t IHt]; simpl in *; try contradiction; try reflexivity.
    destruct Hw. rewrite app_length. specialize (IHs H). specialize (IHt H0). lia. }
  rewrite !L, map_id, W in C. exact C.
Qed.

(** ** Subset sums, of a single run *)

Theorem subset_sums : forall f choice p t r h, (0 < bits f)%Z -> 0 <= r -> 0 <= h -> Forall (number f) (terms t) ->
  (forall k, In k (prods t) -> product_error f choice r h (p k)) ->
  let m := over (fun k => Rabs (p k)) Rabs t in
  let v := r * m + INR (products p t) * h in
  let s := (m + Rabs (exact p t)) / 2 in
  let n := INR (additions p t) in
  Rabs (run (RN f choice) p t - exact p t) <= v + n * (unit_roundoff f * ufp (s + v + n * unit_roundoff f * (m + v))).
Proof.
  intros f choice p t r h Hf Hr Hh Ht Hp m v s n.
  assert (Z : forall q, over (fun k => Rabs (q k - q k)) (fun _ : R => 0) t = 0).
  { intros q. clear. induction t as [b|k|s IHs t IHt|k t IHt]; simpl; try rewrite IHs; try rewrite IHt; try lra;
    unfold Rminus; rewrite Rplus_opp_r, Rabs_R0; lra. }
  destruct (any_order f Hf choice p p (fun k => Rabs (p k - p k)) r h Hr Hh t Ht Hp (fun k _ => Rle_refl _) m s v n (Rle_refl _)) as [E _].
  - unfold magnitude, carried. rewrite Z. unfold m. lra.
  - unfold magnitude, carried, centre. rewrite Z. unfold s, m, exact. lra.
  - unfold v. lra.
  - eapply Rle_trans. exact E. apply Rplus_le_compat_l. apply Rmin_r.
Qed.

(** Attained: [1 + v] in any format with any rule for ties. *)
Theorem subset_sums_attained : forall f choice, (1 < bits f)%Z -> (least f <= - bits f)%Z ->
  let v := unit_roundoff f in
  let t := Add (Term 1) (Term v) in
  number f 1 /\ number f v /\ Rabs (run (RN f choice) (fun _ => 0) t - exact (fun _ => 0) t) = 1 * (v * ufp (1 + v)).
Proof.
  intros f choice Hf Hl v t. assert (Hf0 : (0 < bits f)%Z) by lia.
  assert (V : Valid_exp (FLT_exp (least f) (bits f))) by (apply FLT_exp_valid; exact Hf0).
  assert (N1 : number f 1).
  { change 1 with (bpow radix2 0). apply generic_format_bpow. unfold FLT_exp. lia. }
  assert (Nv : number f v).
  { apply generic_format_bpow. unfold FLT_exp. lia. }
  assert (Hv : 0 < v) by apply unit_pos. assert (Hv2 := unit_le_half f Hf0). fold v in Hv2.
  assert (U : ufp (1 + v) = 1).
  { unfold ufp. destruct Req_EM_T; [lra|]. rewrite (mag_unique_pos radix2 (1 + v) 1); [reflexivity|]. simpl. lra. }
  split; [exact N1|]. split; [exact Nv|]. rewrite U. unfold exact, t. simpl.
  assert (S1 : succ radix2 (FLT_exp (least f) (bits f)) 1 = 1 + 2 * v).
  { rewrite succ_eq_pos by lra. f_equal. change 1 with (bpow radix2 0) at 1. rewrite ulp_bpow. unfold FLT_exp.
    rewrite Z.max_l by lia. unfold v, unit_roundoff. change 2 with (bpow radix2 1). rewrite <- bpow_plus. reflexivity || (f_equal; lia). }
  apply Rle_antisym.
  - eapply Rle_trans. apply rnd_nearest with (n := 1); assumption. replace (1 - (1 + v)) with (- v) by ring. rewrite Rabs_Ropp, Rabs_right; lra.
  - set (y := RN f choice (1 + v)). assert (Ny : number f y) by (apply rnd_number; exact Hf0).
    destruct (Rle_lt_dec y 1) as [H|H].
    + rewrite Rabs_left1 by lra. lra.
    + assert (succ radix2 (FLT_exp (least f) (bits f)) 1 <= y) by (apply succ_le_lt; assumption). rewrite Rabs_right by lra. lra.
Qed.

(** ** IEEE numbers *)

Theorem ieee_dot : forall prec emax (Hp : Prec_gt_0 prec) (He : Prec_lt_emax prec emax) w x (t : fsum prec emax),
  is_finite (frun prec emax Hp He w x t) = true ->
  let f := ieee prec emax in
  let p := product prec emax w x in
  let n := INR (leaves (reals prec emax t)) in
  Rabs (B2R (frun prec emax Hp He w x t) - exact p (reals prec emax t))
    <= n * unit_roundoff f * over (fun k => Rabs (p k)) Rabs (reals prec emax t) + n * (1 + n * unit_roundoff f) * eta f.
Proof.
  intros prec emax Hp He w x t H f p n. destruct (finite_result prec emax Hp He w x t H) as [-> Ht].
  apply (sharp_dot f Hp even p (reals prec emax t) Ht).
Qed.

Theorem formats_are_ieee : ieee 11 16 = binary16 /\ ieee 8 128 = bfloat16 /\ ieee 24 128 = binary32 /\ ieee 53 1024 = binary64
  /\ ieee 11 128 = tf32 /\ ieee 3 16 = e5m2.
Proof. repeat split; reflexivity. Qed.

(** Overflow is excluded by the bound of [any_order]. *)
Theorem overflow_freedom : forall prec emax (Hp : Prec_gt_0 prec) (He : Prec_lt_emax prec emax) w x (t : fsum prec emax),
  (forall k, is_finite (w k) = true /\ is_finite (x k) = true) ->
  (fix ok t := match t with FTerm b => is_finite b = true | FProd _ => True | FAdd s t => ok s /\ ok t | FFma _ t => ok t end) t ->
  let f := ieee prec emax in
  let p := product prec emax w x in
  let m := over (fun k => Rabs (p k)) Rabs (reals prec emax t) in
  let v := unit_roundoff f * m + INR (products p (reals prec emax t)) * eta f in
  m + v + INR (additions p (reals prec emax t)) * unit_roundoff f * (m + v) < bpow radix2 emax ->
  is_finite (frun prec emax Hp He w x t) = true.
Proof.
  intros prec emax Hp He w x t Hwx Hb f p m v H. apply no_overflow_finite; try assumption.
  assert (Ht : Forall (number f) (terms (reals prec emax t))).
  { clear H m v. induction t as [b|k|s IHs t IHt|k t IHt]; simpl.
    - constructor; [apply float_number | constructor].
    - constructor.
    - destruct Hb. apply Forall_app; split; auto.
    - auto. }
  assert (Z : over (fun k => Rabs (p k - p k)) (fun _ : R => 0) (reals prec emax t) = 0).
  { generalize (reals prec emax t). clear. intros t. induction t as [b|k|s IHs t IHt|k t IHt]; simpl; try rewrite IHs; try rewrite IHt; try lra;
    unfold Rminus; rewrite Rplus_opp_r, Rabs_R0; lra. }
  set (n := INR (additions p (reals prec emax t))) in *.
  destruct (any_order f Hp even p p (fun k => Rabs (p k - p k)) (unit_roundoff f) (eta f) (Rlt_le _ _ (unit_pos f)) (Rlt_le _ _ (eta_pos f))
    (reals prec emax t) Ht (fun k _ => product_rule_rounded f Hp even (p k)) (fun k _ => Rle_refl _) m m v n (Rle_refl _)) as [_ E].
  - unfold magnitude, carried. rewrite Z. unfold m. lra.
  - unfold magnitude, carried, centre. rewrite Z.
    assert (A : Rabs (over p (fun b => b) (reals prec emax t)) <= m) by apply over_abs. fold m. lra.
  - unfold v. lra.
  - eapply Forall_impl; [|exact E]. intros y Hy. eapply Rle_lt_trans. exact Hy. eapply Rle_lt_trans with (2 := H).
    apply Rplus_le_compat_l. apply Rmin_l.
Qed.

(** ** binary16 and bfloat16, summed in binary32 in any order, stored in the half format *)

Section Mixed.

Variable half : format.
Variable h : R.
Hypothesis half_kind : (half = binary16 /\ h = 0) \/ (half = bfloat16 /\ h = eta binary32).

Theorem half_dot_stored : forall choice choice' w x z e t,
  (forall k, In k (prods t) -> number half (w k) /\ number half (x k)) -> Forall (number half) (terms t) ->
  (forall k, In k (prods t) -> Rabs (x k - z k) <= e k) ->
  let magnitude := over (fun k => Rabs (w k * z k)) Rabs t in
  let carried := over (fun k => Rabs (w k) * e k) (fun _ => 0) t in
  let centre := over (fun k => w k * z k) (fun b => b) t in
  let n := INR (length (prods t) + length (terms t) - 1) in
  let u := unit_roundoff binary32 in
  let v := INR (length (prods t)) * h in
  let m := magnitude + carried in
  let s := (magnitude + Rabs centre) / 2 + carried in
  let fresh := v + Rmin (n * u * (m + v)) (n * (u * ufp (s + v + n * u * (m + v)))) in
  Rabs (RN half choice' (run (RN binary32 choice) (fun k => w k * x k) t) - centre)
    <= carried + fresh + store_error half (Rabs centre + carried + fresh).
Proof.
  intros choice choice' w x z e t Hn Ht He magnitude_ carried_ centre_ n u v m s fresh.
  assert (Hh : 0 <= h) by (destruct half_kind as [[_ ->]|[_ ->]]; [lra | left; apply eta_pos]).
  assert (Hw : forall y, number half y -> number binary32 y).
  { intros y Hy. destruct half_kind as [[E _]|[E _]]; rewrite E in Hy; unfold number in *; apply generic_inclusion_mag with (2 := Hy);
    intros _; unfold FLT_exp; simpl; lia. }
  assert (Ht' : Forall (number binary32) (terms t)) by (eapply Forall_impl; [exact Hw | exact Ht]).
  assert (Hp : forall k, In k (prods t) -> product_error binary32 choice 0 h (w k * x k)).
  { intros k Hk. destruct (Hn k Hk) as [H1 H2]. destruct half_kind as [[E1 E2]|[E1 E2]]; rewrite E1 in H1, H2; rewrite E2.
    - apply (product_rule_exact binary16 binary32); try assumption; simpl; lia.
    - apply (product_rule_underflow bfloat16 binary32); try assumption; simpl; lia. }
  assert (Hq : forall k, In k (prods t) -> Rabs (w k * x k - w k * z k) <= Rabs (w k) * e k).
  { intros k Hk. replace (w k * x k - w k * z k) with (w k * (x k - z k)) by ring. rewrite Rabs_mult.
    apply Rmult_le_compat_l; [apply Rabs_pos | auto]. }
  assert (Hb : (0 < bits half)%Z) by (destruct half_kind as [[-> _]|[-> _]]; reflexivity).
  assert (P : (products (fun k => (w k * x k)%R) t <= length (prods t))%nat).
  { apply products_le. }
  apply (any_order_stored binary32 eq_refl choice (fun k => w k * x k) (fun k => w k * z k) (fun k => Rabs (w k) * e k) 0 h
    (Rle_refl 0) Hh t Ht' Hp Hq m s v n).
  - apply le_INR. unfold additions. lia.
  - unfold m. apply Rle_refl.
  - unfold s. apply Rle_refl.
  - unfold v. rewrite Rmult_0_l, Rplus_0_l. apply Rmult_le_compat_r; [exact Hh | apply le_INR; exact P].
  - exact Hb.
Qed.

End Mixed.

(** ** Tensor cores that truncate to binary32 *)

(** How partial results are added in binary32. *)
Definition truncates_or_rounds (add : R -> R) : Prop := add = RZ binary32 \/ exists choice, add = RN binary32 choice.

Lemma core_numbers : forall fraction add p c, truncates_or_rounds add -> Forall (number binary32) (givens c) ->
  number binary32 (value fraction (RZ binary32) add p c) /\ sums_ok fraction (RZ binary32) add p (2 * unit_roundoff binary32) c.
Proof.
  intros fraction add p c Hadd.
  assert (N : forall y, number binary32 (RZ binary32 y)).
  { intros y. apply generic_format_round; [apply FLT_exp_valid; reflexivity | apply valid_rnd_ZR]. }
  assert (A : forall x y, number binary32 x -> number binary32 y ->
    number binary32 (add (x + y)) /\ Rabs (add (x + y) - (x + y)) <= 2 * unit_roundoff binary32 * Rabs (add (x + y))).
  { intros x y Hx Hy. destruct Hadd as [->|[choice ->]].
    - split; [apply N | apply truncated_sum_error; [reflexivity | exact Hx | exact Hy]].
    - split; [apply generic_format_round; [apply FLT_exp_valid; reflexivity | apply valid_rnd_N]|].
      assert (E := nearest_sum_error binary32 eq_refl choice x y Hx Hy). eapply Rle_trans. exact E.
      apply Rmult_le_compat_r; [apply Rabs_pos|]. assert (U := unit_pos binary32). lra. }
  induction c as [b|a IHa b IHb|e ks a IHa]; cbn [givens]; intros H.
  - inversion H. split; [assumption | exact I].
  - apply Forall_app in H. destruct H as [Ha Hb]. destruct (IHa Ha) as [Na Sa]. destruct (IHb Hb) as [Nb Sb].
    destruct (A _ _ Na Nb) as [A1 A2]. split; [exact A1|]. split; [exact Sa|]. split; [exact Sb | exact A2].
  - destruct (IHa H) as [Na Sa]. split; [apply N | exact Sa].
Qed.

Theorem tensor_core_binary32 : forall fraction add p c m floor count most, truncates_or_rounds add -> 0 <= floor ->
  Forall (number binary32) (givens c) ->
  positive p c <= m -> negative p c <= m -> obeys fraction (RZ binary32) add p floor c ->
  (nonzeros p (multiplied c) <= count)%nat -> (steps c <= most)%nat -> (joins c <= most)%nat ->
  let t := bpow radix2 (-23) in
  let s := bpow radix2 (-149) in
  let a := (INR count + INR most) * bpow radix2 (- fraction) + 2 * INR most * t in a < 1 ->
  let error := (a * (m + floor) + INR most * s) / (1 - a) in
  Rabs (value fraction (RZ binary32) add p c - ideal p c) <= error /\ Rabs (value fraction (RZ binary32) add p c) <= m + error.
Proof.
  intros fraction add p c m floor count most Hadd Hfl Hg Hp Hn Ho Hc Hs Hj t s a Ha error.
  assert (Et : t = 2 * unit_roundoff binary32) by (unfold t, unit_roundoff; change 2 with (bpow radix2 1); rewrite <- bpow_plus; reflexivity).
  assert (Es : s = 2 * eta binary32) by (unfold s, eta; change 2 with (bpow radix2 1); rewrite <- bpow_plus; reflexivity).
  destruct (core_numbers fraction add p c Hadd Hg) as [_ Hok]. unfold error, a in *. rewrite Et in *. rewrite Es.
  apply (tensor_core fraction (RZ binary32) add p (2 * unit_roundoff binary32) (2 * eta binary32)); try assumption.
  - assert (U := unit_pos binary32). lra.
  - assert (U := eta_pos binary32). lra.
  - apply truncation_error. reflexivity.
Qed.

(** ** A library that sums one dot product on tensor cores and another elsewhere *)

Inductive kernel := OnCores (c : core) | Elsewhere (t : tree).

(** What it computes in binary32. *)
Definition kernel_value (fraction : Z) (add : R -> R) (choice : Z -> bool) (p : nat -> R) (k : kernel) : R :=
  match k with OnCores c => value fraction (RZ binary32) add p c | Elsewhere t => run (RN binary32 choice) p t end.

(** It sums these products and these terms, in any order; on tensor cores in at most so many steps; accumulators may start with zeros. *)
Definition kernel_of (fraction : Z) (add : R -> R) (p : nat -> R) (floor : R) (most : nat) (ks : list nat) (bias : list R) (k : kernel) : Prop :=
  match k with
  | OnCores c => Permutation (multiplied c) ks /\ (exists zeros, Permutation (givens c) (bias ++ repeat 0 zeros)) /\
      obeys fraction (RZ binary32) add p floor c /\ (steps c <= most)%nat /\ (joins c <= most)%nat
  | Elsewhere t => Permutation (prods t) ks /\ Permutation (terms t) bias
  end.

Lemma repeated_zeros : forall (g : R -> R) n, g 0 = 0 -> list_sum (map g (repeat 0 n)) = 0.
Proof. intros g n H. induction n as [|n IH]; simpl; [reflexivity|]. rewrite IH, H. ring. Qed.

Lemma list_lipschitz : forall (g : R -> R) (p c q : nat -> R) ks, (forall a b, Rabs (g a - g b) <= Rabs (a - b)) ->
  (forall k, In k ks -> Rabs (p k - c k) <= q k) ->
  list_sum (map (fun k => g (p k)) ks) <= list_sum (map (fun k => g (c k)) ks) + list_sum (map q ks).
Proof.
  intros g p c q ks Hg. induction ks as [|k ks IH]; simpl; intros H; [lra|]. specialize (IH (fun j Hj => H j (or_intror Hj))).
  generalize (Hg (p k) (c k)) (H k (or_introl eq_refl)) (Rle_abs (g (p k) - g (c k))). lra.
Qed.

Lemma list_halves : forall A (c : A -> R) ks,
  list_sum (map (fun k => Rmax 0 (c k)) ks) = (list_sum (map (fun k => Rabs (c k)) ks) + list_sum (map c ks)) / 2 /\
  list_sum (map (fun k => Rmax 0 (- c k)) ks) = (list_sum (map (fun k => Rabs (c k)) ks) - list_sum (map c ks)) / 2.
Proof.
  intros A c ks. induction ks as [|k ks [IHp IHn]]; simpl; [lra|]. rewrite IHp, IHn.
  unfold Rmax, Rabs. destruct (Rle_dec 0 (c k)), (Rle_dec 0 (- c k)), (Rcase_abs (c k)); lra.
Qed.

Lemma products_listed : forall p t, products p t = nonzeros p (prods t).
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; cbn [products prods].
  - reflexivity.
  - unfold nonzeros. simpl. destruct nonzero; reflexivity.
  - rewrite nonzeros_app, IHs, IHt. reflexivity.
  - rewrite IHt. unfold nonzeros. simpl. destruct nonzero; reflexivity.
Qed.

Lemma result_is_intermediate : forall rnd p t, In (run rnd p t) (intermediates rnd p t).
Proof. destruct t; left; reflexivity. Qed.

Theorem either_kernel : forall fraction add choice, truncates_or_rounds add -> forall p c q r h, 0 <= r -> 0 <= h -> forall ks bias,
  Forall (number binary32) bias ->
  (forall k, In k ks -> product_error binary32 choice r h (p k)) -> (forall k, In k ks -> Rabs (p k - c k) <= q k) ->
  forall floor count most kernel, 0 <= floor -> (nonzeros p ks <= count)%nat -> kernel_of fraction add p floor most ks bias kernel ->
  let magnitude := list_sum (map (fun k => Rabs (c k)) ks) + list_sum (map Rabs bias) in
  let carried := list_sum (map q ks) in
  let largest := (magnitude + Rabs (list_sum (map c ks) + list_sum bias)) / 2 + carried in
  let a := (INR count + INR most) * bpow radix2 (- fraction) + 2 * INR most * bpow radix2 (-23) in a < 1 ->
  let on_cores := (a * (largest + floor) + INR most * bpow radix2 (-149)) / (1 - a) in
  let u := unit_roundoff binary32 in
  let n := INR (count + length bias - 1) in
  let v := r * (magnitude + carried) + INR count * h in
  let classical := n * u * (magnitude + carried + v) in
  let elsewhere := v + Rmin classical (n * (u * ufp (largest + v + classical))) in
  let y := kernel_value fraction add choice p kernel in
  Rabs (y - (list_sum (map p ks) + list_sum bias)) <= Rmax on_cores elsewhere /\ Rabs y <= largest + Rmax on_cores elsewhere.
Proof.
  intros fraction add choice Hadd p c q r h Hr Hh ks bias Hbias Hpro Hq floor count most kernel Hfl Hcount Hk
    magnitude carried largest a Ha on_cores u n v classical elsewhere y.
  destruct kernel as [core|t]; unfold y, kernel_value; clear y; cbn [kernel_of] in Hk.
  - destruct Hk as [Pk [[zeros Pg] [Ho [Hs Hj]]]].
    destruct (core_lists p core) as [Lp [Ln Li]].
    assert (S : forall (f : nat -> R) g, g 0 = 0 ->
      list_sum (map f (multiplied core)) + list_sum (map g (givens core)) = list_sum (map f ks) + list_sum (map g bias)).
    { intros f g Hg. rewrite (list_sum_permutation _ _ (Permutation_map f Pk)), (list_sum_permutation _ _ (Permutation_map g Pg)).
      rewrite map_app, list_sum_app, repeated_zeros by exact Hg. ring. }
    assert (Z : Rmax 0 0 = 0) by (apply Rmax_left; lra).
    rewrite S in Lp by exact Z. rewrite (S _ (fun b => Rmax 0 (- b))) in Ln by (rewrite Ropp_0; exact Z).
    rewrite <- (map_id_sum (givens core)), S, map_id_sum in Li by reflexivity.
    destruct (list_halves _ c ks) as [Cp Cn]. destruct (list_halves _ (fun b => b) bias) as [Bp Bn].
    rewrite map_id_sum in Bp, Bn. change (map (fun k => Rabs k) bias) with (map Rabs bias) in Bp, Bn.
    change (map (fun k => Rmax 0 k) bias) with (map (Rmax 0) bias) in Bp.
    assert (Qp := list_lipschitz (Rmax 0) p c q ks pos_lipschitz Hq).
    assert (Qn := list_lipschitz (fun v => Rmax 0 (- v)) p c q ks neg_lipschitz Hq). cbv beta in Qn.
    assert (R1 := Rle_abs (list_sum (map c ks) + list_sum bias)). assert (R2 := Rle_abs (- (list_sum (map c ks) + list_sum bias))).
    rewrite Rabs_Ropp in R2.
    assert (Hp : positive p core <= largest) by (rewrite Lp; unfold largest, magnitude, carried; lra).
    assert (Hn : negative p core <= largest) by (rewrite Ln; unfold largest, magnitude, carried; lra).
    assert (Hg : Forall (number binary32) (givens core)).
    { apply Permutation_Forall with (bias ++ repeat 0 zeros); [apply Permutation_sym; exact Pg|]. apply Forall_app. split; [exact Hbias|].
      apply Forall_forall. intros b Hb. rewrite (repeat_spec _ _ _ Hb). apply generic_format_0. }
    rewrite <- (nonzeros_permutation p _ _ Pk) in Hcount.
    destruct (tensor_core_binary32 fraction add p core largest floor count most Hadd Hfl Hg Hp Hn Ho Hcount Hs Hj Ha) as [E M].
    fold a on_cores in E, M. rewrite Li in E. assert (X := Rmax_l on_cores elsewhere). lra.
  - destruct Hk as [Pk Pt].
    assert (In_ks : forall k, In k (prods t) -> In k ks) by (intros k; apply Permutation_in; exact Pk).
    assert (Ht : Forall (number binary32) (terms t)) by (apply Permutation_Forall with bias; [apply Permutation_sym; exact Pt | exact Hbias]).
    assert (Hprod : products p t = nonzeros p ks) by (rewrite products_listed; apply nonzeros_permutation; exact Pk).
    assert (Hn : INR (additions p t) <= n).
    { apply le_INR. unfold additions. rewrite Hprod, (Permutation_length Pt). lia. }
    assert (Hmag : Dot.magnitude c t = magnitude) by (unfold Dot.magnitude, magnitude; apply over_permuted; assumption).
    assert (Hcar : Dot.carried q t = carried) by (unfold Dot.carried, carried; rewrite (over_permuted _ _ t ks bias Pk Pt), list_zero; ring).
    assert (Hcen : Dot.centre c t = list_sum (map c ks) + list_sum bias)
      by (unfold Dot.centre; rewrite (over_permuted _ _ t ks bias Pk Pt), map_id_sum; reflexivity).
    assert (Hexa : exact p t = list_sum (map p ks) + list_sum bias)
      by (unfold exact; rewrite (over_permuted _ _ t ks bias Pk Pt), map_id_sum; reflexivity).
    assert (Hm : Dot.magnitude c t + Dot.carried q t <= magnitude + carried) by (rewrite Hmag, Hcar; lra).
    assert (Hs : (Dot.magnitude c t + Rabs (Dot.centre c t)) / 2 + Dot.carried q t <= largest)
      by (rewrite Hmag, Hcar, Hcen; unfold largest; lra).
    assert (Hv : r * (magnitude + carried) + INR (products p t) * h <= v).
    { unfold v. rewrite Hprod. apply Rplus_le_compat_l. apply Rmult_le_compat_r; [exact Hh | apply le_INR; exact Hcount]. }
    destruct (any_order binary32 eq_refl choice p c q r h Hr Hh t Ht (fun k H => Hpro k (In_ks k H)) (fun k H => Hq k (In_ks k H))
      (magnitude + carried) largest v n Hn Hm Hs Hv) as [E F].
    rewrite Forall_forall in F. assert (M := F _ (result_is_intermediate (RN binary32 choice) p t)).
    fold u in E, M. fold classical in E, M. rewrite Hexa in E. assert (X := Rmax_r on_cores elsewhere).
    split; [eapply Rle_trans; [exact E | exact X]|].
    eapply Rle_trans. exact M. rewrite Rplus_assoc. apply Rplus_le_compat_l. exact X.
Qed.

(** ** Gaps bounded by backward substitution *)

Theorem substituted_certificate : forall lower upper below above n (z x : nat -> R) (logit : nat -> nat) classes c,
  (forall i, (i < n)%nat -> sum i (fun j => lower i j * (x j - z j)) - below i <= x i - z i <= sum i (fun j => upper i j * (x j - z j)) + above i) ->
  (c < classes)%nat -> (forall j, (j < classes)%nat -> (logit j < n)%nat) ->
  let minus_gap j k := (if Nat.eq_dec k (logit j) then 1 else 0) - (if Nat.eq_dec k (logit c) then 1 else 0) in
  (forall j, (j < c)%nat -> z (logit c) - z (logit j) > pull lower upper below above n (minus_gap j)) ->
  (forall j, (c < j < classes)%nat -> z (logit c) - z (logit j) >= pull lower upper below above n (minus_gap j)) ->
  argmax (fun j => x (logit j)) classes = c.
Proof.
  intros lower upper below above n z x logit classes c Hl Hc Hlog minus_gap Hb Ha.
  assert (G : forall j, (j < classes)%nat -> (z (logit c) - z (logit j)) - (x (logit c) - x (logit j)) <= pull lower upper below above n (minus_gap j)).
  { intros j Hj. assert (S := substitution lower upper below above (fun j => x j - z j) n Hl (minus_gap j)). simpl in S.
    rewrite (sum_ext n _ (fun k => (if Nat.eq_dec k (logit j) then 1 else 0) * (x k - z k) + (if Nat.eq_dec k (logit c) then -1 else 0) * (x k - z k))) in S.
    - rewrite sum_plus, (sum_at n (logit j) 1 (fun k => x k - z k)), (sum_at n (logit c) (-1) (fun k => x k - z k)) in S by (apply Hlog; assumption). lra.
    - intros k Hk. unfold minus_gap. destruct Nat.eq_dec; destruct Nat.eq_dec; ring. }
  apply gaps_keep_argmax; [exact Hc| |]; intros j Hj.
  - specialize (Hb j Hj). specialize (G j ltac:(lia)). lra.
  - specialize (Ha j Hj). specialize (G j ltac:(lia)). lra.
Qed.

(** ** Two programs *)

Theorem predictions_agree : forall a1 a2 choice1 choice2 net1 net2 z1 z2 x1 x2 e1 e2 n1 n2 (logit1 logit2 : nat -> nat) classes c,
  (forall a, a = a1 \/ a = a2 -> (0 < bits (storage a))%Z /\ (0 < bits (accumulate a))%Z /\ (0 < bits (internal a))%Z
     /\ 0 <= product_roundoff a /\ 0 <= product_underflow a) ->
  (forall i, (i < n1)%nat -> ordered a1 net1 i /\ z1 i = exactly net1 z1 i /\ runs a1 choice1 net1 x1 i
     /\ carried_by net1 z1 e1 i + local_error a1 net1 z1 e1 i <= e1 i) ->
  (forall i, (i < n2)%nat -> ordered a2 net2 i /\ z2 i = exactly net2 z2 i /\ runs a2 choice2 net2 x2 i
     /\ carried_by net2 z2 e2 i + local_error a2 net2 z2 e2 i <= e2 i) ->
  (c < classes)%nat -> (forall j, (j < classes)%nat -> (logit1 j < n1)%nat /\ (logit2 j < n2)%nat) ->
  (forall j, (j < classes)%nat -> j <> c ->
     z1 (logit1 c) - z1 (logit1 j) > e1 (logit1 c) + e1 (logit1 j) /\ z2 (logit2 c) - z2 (logit2 j) > e2 (logit2 c) + e2 (logit2 j)) ->
  argmax (fun j => x1 (logit1 j)) classes = argmax (fun j => x2 (logit2 j)) classes.
Proof.
  intros a1 a2 choice1 choice2 net1 net2 z1 z2 x1 x2 e1 e2 n1 n2 logit1 logit2 classes c Ha H1 H2 Hc Hl Hg.
  destruct (Ha a1 (or_introl eq_refl)) as [A1 [A2 [A3 [A4 A5]]]]. destruct (Ha a2 (or_intror eq_refl)) as [B1 [B2 [B3 [B4 B5]]]].
  transitivity c; [|symmetry].
  - apply (certificate a1 A1 A2 A3 A4 A5 choice1 net1 z1 x1 e1 n1); try assumption; try (intros i Hi; apply (H1 i Hi)).
    + intros j Hj. apply (Hl j Hj).
    + intros j Hj. apply Hg; lia.
    + intros j Hj. apply Rgt_ge. apply Hg; lia.
  - apply (certificate a2 B1 B2 B3 B4 B5 choice2 net2 z2 x2 e2 n2); try assumption; try (intros i Hi; apply (H2 i Hi)).
    + intros j Hj. apply (Hl j Hj).
    + intros j Hj. apply Hg; lia.
    + intros j Hj. apply Rgt_ge. apply Hg; lia.
Qed.
