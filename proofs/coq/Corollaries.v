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

Lemma core_numbers : forall fraction p c,
  (fix given c := match c with Given b => number binary32 b | Plus a b => given a /\ given b | Step _ _ a => given a end) c ->
  number binary32 (value fraction (RZ binary32) (RZ binary32) p c) /\ sums_ok fraction (RZ binary32) (RZ binary32) p (2 * unit_roundoff binary32) c.
Proof.
  intros fraction p c. assert (N : forall y, number binary32 (RZ binary32 y)).
  { intros y. apply generic_format_round; [apply FLT_exp_valid; reflexivity | apply valid_rnd_ZR]. }
  induction c as [b|a IHa b IHb|e ks a IHa]; intros H.
  - split; [exact H | exact I].
  - destruct H as [Ha Hb]. destruct (IHa Ha) as [Na Sa]. destruct (IHb Hb) as [Nb Sb]. split; [apply N|].
    split; [exact Sa|]. split; [exact Sb|]. apply truncated_sum_error; [reflexivity | exact Na | exact Nb].
  - destruct (IHa H) as [Na Sa]. split; [apply N | exact Sa].
Qed.

Theorem tensor_core_binary32 : forall fraction p c m floor terms_ most, 0 <= floor ->
  (fix given c := match c with Given b => number binary32 b | Plus a b => given a /\ given b | Step _ _ a => given a end) c ->
  positive p c <= m -> negative p c <= m -> obeys fraction (RZ binary32) (RZ binary32) p terms_ floor c ->
  (steps c <= most)%nat -> (joins c <= most)%nat ->
  let t := bpow radix2 (-23) in
  let s := bpow radix2 (-149) in
  let a := INR most * ((INR terms_ + 1) * bpow radix2 (- fraction) + 2 * t) in a < 1 ->
  Rabs (value fraction (RZ binary32) (RZ binary32) p c - ideal p c) <= (a * (m + floor) + INR most * s) / (1 - a).
Proof.
  intros fraction p c m floor terms_ most Hfl Hg Hp Hn Ho Hs Hj t s a Ha.
  assert (Et : t = 2 * unit_roundoff binary32) by (unfold t, unit_roundoff; change 2 with (bpow radix2 1); rewrite <- bpow_plus; reflexivity).
  assert (Es : s = 2 * eta binary32) by (unfold s, eta; change 2 with (bpow radix2 1); rewrite <- bpow_plus; reflexivity).
  destruct (core_numbers fraction p c Hg) as [_ Hok]. unfold a in *. rewrite Et in *. rewrite Es.
  apply (tensor_core fraction (RZ binary32) (RZ binary32) p (2 * unit_roundoff binary32) (2 * eta binary32)); try assumption.
  - left. assert (U := unit_pos binary32). lra.
  - left. assert (U := eta_pos binary32). lra.
  - apply truncation_error. reflexivity.
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
