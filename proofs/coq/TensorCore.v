(** Tensor cores: theorem 5 of bounds.md. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz Permutation.
From Flocq Require Import Core Plus_error.
From PrecisionKit Require Import Model Rounding Dot.
Import ListNotations.
Open Scope R_scope.

(** A bias or a start, an addition of two accumulators, a step that adds products to an accumulator, all aligned to [2^e]. *)
Inductive core :=
  | Given (b : R)
  | Plus (a b : core)
  | Step (e : Z) (ks : list nat) (a : core).

(** The products that its steps add, and what it is given: a bias, and zeros that accumulators start with. *)
Fixpoint multiplied (c : core) : list nat :=
  match c with Given _ => [] | Plus a b => multiplied a ++ multiplied b | Step _ ks a => ks ++ multiplied a end.
Fixpoint givens (c : core) : list R := match c with Given b => [b] | Plus a b => givens a ++ givens b | Step _ _ a => givens a end.

(** Products that are not zero. *)
Definition nonzeros (p : nat -> R) (ks : list nat) : nat := length (filter (fun k => nonzero (p k)) ks).

(** Truncation to a multiple of [2^(e - fraction)]. *)
Definition align (fraction e : Z) (x : R) : R := round radix2 (FIX_exp (e - fraction)) Ztrunc x.

Section Core.

Variable fraction : Z.
Variable out add : R -> R.     (* how a step's sum and a sum of two accumulators are rounded *)
Variable p : nat -> R.

Definition aligned (e : Z) (ks : list nat) (a : R) : R := list_sum (map (fun k => align fraction e (p k)) ks) + align fraction e a.

Fixpoint value (c : core) : R :=
  match c with
  | Given b => b
  | Plus a b => add (value a + value b)
  | Step e ks a => out (aligned e ks (value a))
  end.

Fixpoint ideal (c : core) : R :=
  match c with
  | Given b => b
  | Plus a b => ideal a + ideal b
  | Step e ks a => list_sum (map p ks) + ideal a
  end.

Fixpoint positive (c : core) : R :=
  match c with
  | Given b => Rmax 0 b
  | Plus a b => positive a + positive b
  | Step e ks a => list_sum (map (fun k => Rmax 0 (p k)) ks) + positive a
  end.

Fixpoint negative (c : core) : R :=
  match c with
  | Given b => Rmax 0 (- b)
  | Plus a b => negative a + negative b
  | Step e ks a => list_sum (map (fun k => Rmax 0 (- p k)) ks) + negative a
  end.

Fixpoint steps (c : core) : nat := match c with Given _ => 0 | Plus a b => steps a + steps b | Step _ _ a => S (steps a) end.
Fixpoint joins (c : core) : nat := match c with Given _ => 0 | Plus a b => S (joins a + joins b) | Step _ _ a => joins a end.

(** Steps, of any length, align to an exponent that a product, the accumulator or [floor] has. *)
Fixpoint obeys (floor : R) (c : core) : Prop :=
  match c with
  | Given _ => True
  | Plus a b => obeys floor a /\ obeys floor b
  | Step e ks a => obeys floor a /\
      ((exists k, In k ks /\ bpow radix2 e <= Rabs (p k) + floor) \/ bpow radix2 e <= Rabs (value a) + floor)
  end.

Variables t s : R.
Hypothesis t_nonneg : 0 <= t.
Hypothesis s_nonneg : 0 <= s.
Hypothesis out_error : forall x, Rabs (out x - x) <= t * Rabs (out x) + s.
(** Sums of two accumulators lose nothing below the normal range. *)
Fixpoint sums_ok (c : core) : Prop :=
  match c with
  | Given _ => True
  | Plus a b => sums_ok a /\ sums_ok b /\ Rabs (value (Plus a b) - (value a + value b)) <= t * Rabs (value (Plus a b))
  | Step _ _ a => sums_ok a
  end.

Fixpoint loss (c : core) : R :=
  match c with
  | Given _ => 0
  | Plus a b => loss a + loss b + Rabs (value (Plus a b) - (value a + value b))
  | Step e ks a => loss a + Rabs (value (Step e ks a) - (list_sum (map p ks) + value a))
  end.

Lemma loss_nonneg : forall c, 0 <= loss c.
Proof.
  induction c as [b|a IHa b IHb|e ks a IHa]; cbn [loss]; try lra.
  - generalize (Rabs_pos (value (Plus a b) - (value a + value b))). lra.
  - generalize (Rabs_pos (value (Step e ks a) - (list_sum (map p ks) + value a))). lra.
Qed.

Lemma value_loss : forall c, Rabs (value c - ideal c) <= loss c.
Proof.
  induction c as [b|a IHa b IHb|e ks a IHa]; cbn [loss ideal].
  - simpl. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - replace (value (Plus a b) - (ideal a + ideal b)) with ((value (Plus a b) - (value a + value b)) + ((value a - ideal a) + (value b - ideal b))) by ring.
    eapply Rle_trans. apply Rabs_triang. generalize (Rabs_triang (value a - ideal a) (value b - ideal b)). lra.
  - replace (value (Step e ks a) - (list_sum (map p ks) + ideal a)) with ((value (Step e ks a) - (list_sum (map p ks) + value a)) + (value a - ideal a)) by ring.
    eapply Rle_trans. apply Rabs_triang. lra.
Qed.

Lemma list_nonneg : forall (g : nat -> R) ks, (forall k, 0 <= g k) -> 0 <= list_sum (map g ks).
Proof. induction ks; simpl; intros H; [lra|]. generalize (H a) (IHks H). lra. Qed.

Lemma list_one : forall (g : nat -> R) ks k, (forall k, 0 <= g k) -> In k ks -> g k <= list_sum (map g ks).
Proof.
  induction ks as [|a ks IH]; simpl; intros k Hg H; [contradiction|]. generalize (Hg a) (list_nonneg g ks Hg). destruct H as [->|H]; intros; [lra|].
  generalize (IH k Hg H). lra.
Qed.

Lemma parts_nonneg : forall c, 0 <= positive c /\ 0 <= negative c.
Proof.
  induction c as [b|a IHa b IHb|e ks a IHa]; simpl.
  - split; apply Rmax_l.
  - lra.
  - generalize (list_nonneg (fun k => Rmax 0 (p k)) ks (fun k => Rmax_l 0 (p k))).
    generalize (list_nonneg (fun k => Rmax 0 (- p k)) ks (fun k => Rmax_l 0 (- p k))). lra.
Qed.

Lemma list_parts : forall ks, list_sum (map p ks) = list_sum (map (fun k => Rmax 0 (p k)) ks) - list_sum (map (fun k => Rmax 0 (- p k)) ks).
Proof.
  induction ks as [|k ks IH]; simpl; [lra|]. rewrite IH. unfold Rmax. destruct (Rle_dec 0 (p k)), (Rle_dec 0 (- p k)); lra.
Qed.

Lemma ideal_parts : forall c, ideal c = positive c - negative c.
Proof.
  induction c as [b|a IHa b IHb|e ks a IHa]; simpl; rewrite ?list_parts; try lra.
  unfold Rmax. destruct (Rle_dec 0 b), (Rle_dec 0 (- b)); lra.
Qed.

Lemma ideal_within : forall m c, positive c <= m -> negative c <= m -> Rabs (ideal c) <= m.
Proof. intros. rewrite ideal_parts. apply Rabs_le. generalize (parts_nonneg c). lra. Qed.

Lemma align_error : forall e x, Rabs (align fraction e x - x) <= bpow radix2 (e - fraction).
Proof.
  intros. unfold align. apply Rlt_le. rewrite <- (ulp_FIX radix2 (e - fraction) x).
  destruct (Req_dec x 0) as [->|H].
  - rewrite round_0 by apply valid_rnd_ZR. rewrite Rminus_0_r, Rabs_R0, ulp_FIX. apply bpow_gt_0.
  - apply error_lt_ulp; [apply FIX_exp_valid | apply valid_rnd_ZR | assumption].
Qed.

Lemma nonzeros_app : forall ks ls, nonzeros p (ks ++ ls) = (nonzeros p ks + nonzeros p ls)%nat.
Proof. intros. unfold nonzeros. rewrite filter_app, app_length. reflexivity. Qed.

(** A zero aligns to zero and loses nothing. *)
Lemma aligned_error : forall e ks a,
  Rabs (aligned e ks a - (list_sum (map p ks) + a)) <= (INR (nonzeros p ks) + 1) * bpow radix2 (e - fraction).
Proof.
  intros e ks a. unfold aligned.
  assert (L : Rabs (list_sum (map (fun k => align fraction e (p k)) ks) - list_sum (map p ks)) <= INR (nonzeros p ks) * bpow radix2 (e - fraction)).
  { induction ks as [|k ks IH].
    - simpl. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
    - change (k :: ks) with ([k] ++ ks). rewrite nonzeros_app, plus_INR. simpl list_sum.
      match goal with |- Rabs (?a + ?b - (?c + ?d)) <= _ => replace (a + b - (c + d)) with ((a - c) + (b - d)) by ring end.
      eapply Rle_trans. apply Rabs_triang. rewrite Rmult_plus_distr_r. apply Rplus_le_compat; [|exact IH].
      unfold nonzeros, nonzero. simpl. destruct Req_EM_T as [Z|Z]; simpl.
      + rewrite Z. unfold align. rewrite round_0 by apply valid_rnd_ZR. rewrite Rminus_0_r, Rabs_R0. lra.
      + generalize (align_error e (p k)). lra. }
  match goal with |- Rabs (?a + ?b - (?c + ?d)) <= _ => replace (a + b - (c + d)) with ((a - c) + (b - d)) by ring end.
  eapply Rle_trans. apply Rabs_triang. generalize (align_error e a). lra.
Qed.

Lemma loss_bound : forall m x floor c, 0 <= m -> 0 <= floor -> positive c <= m -> negative c <= m -> loss c <= x ->
  obeys floor c -> sums_ok c ->
  loss c <= (INR (nonzeros p (multiplied c)) + INR (steps c)) * (bpow radix2 (- fraction) * (m + x + floor))
    + INR (steps c) * (t * (m + x) + s) + INR (joins c) * (t * (m + x)).
Proof.
  intros m x floor c Hm Hfl. set (w := bpow radix2 (- fraction)).
  assert (Hw : 0 <= w) by apply bpow_ge_0.
  assert (V : forall c, positive c <= m -> negative c <= m -> loss c <= x -> Rabs (value c) <= m + x).
  { intros c' Hp Hn Hx. replace (value c') with (ideal c' + (value c' - ideal c')) by ring. eapply Rle_trans. apply Rabs_triang.
    generalize (ideal_within m c' Hp Hn) (value_loss c'). lra. }
  induction c as [b|a IHa b IHb|e ks a IHa]; intros Hp Hn Hx Ho Hs.
  - simpl. lra.
  - destruct Ho as [Hoa Hob]. destruct Hs as [Hsa [Hsb Hj]].
    assert (VV := V (Plus a b) Hp Hn Hx).
    assert (La := loss_nonneg a). assert (Lb := loss_nonneg b).
    cbn [loss positive negative steps joins multiplied] in *.
    assert (Ld := Rabs_pos (value (Plus a b) - (value a + value b))).
    generalize (parts_nonneg a) (parts_nonneg b). intros Pa Pb.
    specialize (IHa ltac:(lra) ltac:(lra) ltac:(lra) Hoa Hsa). specialize (IHb ltac:(lra) ltac:(lra) ltac:(lra) Hob Hsb).
    rewrite nonzeros_app, S_INR, !plus_INR. assert (T := Rmult_le_compat_l t _ _ t_nonneg VV). lra.
  - destruct Ho as [Hoa He].
    assert (VV := V (Step e ks a) Hp Hn Hx).
    assert (La := loss_nonneg a).
    cbn [loss positive negative steps joins sums_ok multiplied] in *.
    assert (Ld := Rabs_pos (value (Step e ks a) - (list_sum (map p ks) + value a))).
    assert (Qp := list_nonneg (fun k => Rmax 0 (p k)) ks (fun k => Rmax_l 0 (p k))).
    assert (Qn := list_nonneg (fun k => Rmax 0 (- p k)) ks (fun k => Rmax_l 0 (- p k))).
    assert (Pa := parts_nonneg a).
    specialize (IHa ltac:(lra) ltac:(lra) ltac:(lra) Hoa Hs).
    assert (Ha : Rabs (value a) <= m + x) by (apply V; lra).
    assert (B : bpow radix2 e <= m + x + floor).
    { destruct He as [[k [Hk He]]|He]; [|lra].
      assert (K1 := list_one (fun k => Rmax 0 (p k)) ks k (fun k => Rmax_l 0 (p k)) Hk).
      assert (K2 := list_one (fun k => Rmax 0 (- p k)) ks k (fun k => Rmax_l 0 (- p k)) Hk). simpl in K1, K2.
      assert (Rabs (p k) <= m); [|lra]. apply Rabs_le. generalize (Rmax_r 0 (p k)) (Rmax_r 0 (- p k)). lra. }
    assert (D1 := aligned_error e ks (value a)).
    assert (D2 := out_error (aligned e ks (value a))). change (out (aligned e ks (value a))) with (value (Step e ks a)) in D2.
    assert (W : (INR (nonzeros p ks) + 1) * bpow radix2 (e - fraction) <= (INR (nonzeros p ks) + 1) * (w * (m + x + floor))).
    { apply Rmult_le_compat_l; [generalize (pos_INR (nonzeros p ks)); lra|].
      unfold w, Zminus. rewrite bpow_plus, Rmult_comm. apply Rmult_le_compat_l; assumption. }
    assert (T := Rmult_le_compat_l t _ _ t_nonneg VV).
    rewrite nonzeros_app, plus_INR, S_INR.
    assert (E : Rabs (value (Step e ks a) - (list_sum (map p ks) + value a)) <= (INR (nonzeros p ks) + 1) * (w * (m + x + floor)) + t * (m + x) + s).
    { replace (value (Step e ks a) - (list_sum (map p ks) + value a))
        with ((value (Step e ks a) - aligned e ks (value a)) + (aligned e ks (value a) - (list_sum (map p ks) + value a))) by ring.
      eapply Rle_trans. apply Rabs_triang. lra. }
    lra.
Qed.

Theorem tensor_core : forall m floor count most c, 0 <= floor ->
  positive c <= m -> negative c <= m -> obeys floor c -> sums_ok c ->
  (nonzeros p (multiplied c) <= count)%nat -> (steps c <= most)%nat -> (joins c <= most)%nat ->
  let a := (INR count + INR most) * bpow radix2 (- fraction) + 2 * INR most * t in a < 1 ->
  let error := (a * (m + floor) + INR most * s) / (1 - a) in
  Rabs (value c - ideal c) <= error /\ Rabs (value c) <= m + error.
Proof.
  intros m floor count most c Hfl Hp Hn Ho Hs Hcount Hsteps Hjoins a Ha error.
  assert (Hm : 0 <= m) by (generalize (parts_nonneg c); lra).
  assert (L := loss_bound m (loss c) floor c Hm Hfl Hp Hn (Rle_refl _) Ho Hs).
  assert (X := loss_nonneg c). set (x := loss c) in *.
  apply le_INR in Hcount, Hsteps, Hjoins. assert (N3 := pos_INR most).
  set (w := bpow radix2 (- fraction)) in *.
  assert (Hw : 0 <= w) by apply bpow_ge_0.
  assert (W : 0 <= w * (m + x + floor)) by (apply Rmult_le_pos; lra).
  assert (T : 0 <= t * (m + x)) by (apply Rmult_le_pos; lra).
  assert (A0 : (INR (nonzeros p (multiplied c)) + INR (steps c)) * (w * (m + x + floor)) <= (INR count + INR most) * (w * (m + x + floor)))
    by (apply Rmult_le_compat_r; lra).
  assert (A1 : INR (steps c) * (t * (m + x) + s) <= INR most * (t * (m + x) + s)) by (apply Rmult_le_compat_r; lra).
  assert (A2 : INR (joins c) * (t * (m + x)) <= INR most * (t * (m + x))) by (apply Rmult_le_compat_r; lra).
  assert (T2 : t * (m + x) <= t * (m + x + floor)) by (apply Rmult_le_compat_l; lra).
  assert (A3 : INR most * (2 * (t * (m + x))) <= INR most * (2 * (t * (m + x + floor)))) by (apply Rmult_le_compat_l; lra).
  assert (F : x <= a * (m + x + floor) + INR most * s) by (unfold a; lra).
  assert (E : x <= error).
  { unfold error. apply Rmult_le_reg_r with (1 - a); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra. }
  assert (V := value_loss c). fold x in V. split; [lra|].
  replace (value c) with (ideal c + (value c - ideal c)) by ring. eapply Rle_trans. apply Rabs_triang.
  generalize (ideal_within m c Hp Hn). lra.
Qed.

(** Steps of at most so many products. *)
Fixpoint short (length_ : nat) (c : core) : Prop :=
  match c with
  | Given _ => True
  | Plus a b => short length_ a /\ short length_ b
  | Step _ ks a => (length ks <= length_)%nat /\ short length_ a
  end.

Theorem short_steps : forall length_ c, short length_ c -> (nonzeros p (multiplied c) <= steps c * length_)%nat.
Proof.
  assert (F : forall ks, (nonzeros p ks <= length ks)%nat).
  { unfold nonzeros. induction ks as [|k ks IH]; simpl; [lia|]. destruct nonzero; simpl; lia. }
  induction c as [b|a IHa b IHb|e ks a IHa]; cbn [short multiplied steps]; intros H.
  - apply Nat.le_0_l.
  - destruct H as [Ha Hb]. rewrite nonzeros_app. specialize (IHa Ha). specialize (IHb Hb). lia.
  - destruct H as [Hk Ha]. rewrite nonzeros_app. specialize (IHa Ha). specialize (F ks). simpl. lia.
Qed.

(** The order of a computation is without influence on what is summed. *)
Lemma core_lists : forall c,
  positive c = list_sum (map (fun k => Rmax 0 (p k)) (multiplied c)) + list_sum (map (Rmax 0) (givens c)) /\
  negative c = list_sum (map (fun k => Rmax 0 (- p k)) (multiplied c)) + list_sum (map (fun b => Rmax 0 (- b)) (givens c)) /\
  ideal c = list_sum (map p (multiplied c)) + list_sum (givens c).
Proof.
  induction c as [b|a IHa b IHb|e ks a IHa]; cbn [positive negative ideal multiplied givens].
  - simpl. lra.
  - rewrite !map_app, !list_sum_app. lra.
  - rewrite !map_app, !list_sum_app. lra.
Qed.

Lemma nonzeros_permutation : forall ks ls, Permutation ks ls -> nonzeros p ks = nonzeros p ls.
Proof.
  unfold nonzeros. induction 1 as [|k ks ls _ IH|k l ks|]; simpl.
  - reflexivity.
  - destruct nonzero; simpl; rewrite IH; reflexivity.
  - destruct (nonzero (p k)), (nonzero (p l)); reflexivity.
  - congruence.
Qed.

End Core.

(** ** The roundings that occur *)

Section Roundings.

Variable f : format.
Hypothesis bits_pos : (0 < bits f)%Z.

Local Instance bits_positive : Prec_gt_0 (bits f) := bits_pos.

(** Truncation loses less than an ulp of its result. *)
Lemma truncation_error : forall x, Rabs (RZ f x - x) <= 2 * unit_roundoff f * Rabs (RZ f x) + 2 * eta f.
Proof.
  intros x. unfold RZ.
  set (y := round radix2 (FLT_exp (least f) (bits f)) Ztrunc x).
  assert (U : Rabs (y - x) <= ulp radix2 (FLT_exp (least f) (bits f)) y).
  { destruct (Req_dec x 0) as [->|H].
    - unfold y. rewrite round_0 by apply valid_rnd_ZR. unfold Rminus. rewrite Rplus_0_l, Ropp_0, Rabs_R0. apply ulp_ge_0.
    - unfold y. apply error_le_ulp_round; [apply FLT_exp_valid, bits_pos | apply FLT_exp_monotone | apply valid_rnd_ZR]. }
  eapply Rle_trans. exact U.
  destruct (Req_dec y 0) as [E|E].
  - rewrite E, Rabs_R0, Rmult_0_r, Rplus_0_l. rewrite ulp_FLT_0 by exact bits_pos. unfold eta.
    change 2 with (bpow radix2 1). rewrite <- bpow_plus. apply bpow_le. lia.
  - rewrite ulp_neq_0 by exact E. unfold cexp, FLT_exp, eta, unit_roundoff.
    change 2 with (bpow radix2 1). rewrite <- !bpow_plus.
    destruct (Z.max_spec (mag radix2 y - bits f) (least f)) as [[_ ->]|[_ ->]].
    + replace (1 + (least f - 1))%Z with (least f) by ring.
      assert (0 <= bpow radix2 (1 + - bits f) * Rabs y) by (apply Rmult_le_pos; [apply bpow_ge_0 | apply Rabs_pos]). lra.
    + replace (mag radix2 y - bits f)%Z with ((1 + - bits f) + (mag radix2 y - 1))%Z by ring. rewrite bpow_plus.
      assert (A := bpow_mag_le radix2 y E). assert (B := bpow_ge_0 radix2 (1 + (least f - 1))).
      assert (bpow radix2 (1 + - bits f) * bpow radix2 (mag radix2 y - 1) <= bpow radix2 (1 + - bits f) * Rabs y); [|lra].
      apply Rmult_le_compat_l; [apply bpow_ge_0 | exact A].
Qed.

Lemma truncated_sum_error : forall x y, number f x -> number f y -> Rabs (RZ f (x + y) - (x + y)) <= 2 * unit_roundoff f * Rabs (RZ f (x + y)).
Proof.
  intros x y Hx Hy. destruct (Rlt_le_dec (Rabs (x + y)) (smallest_normal f)) as [H|H].
  - replace (RZ f (x + y)) with (x + y).
    + unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply Rmult_le_pos; [|apply Rabs_pos]. generalize (unit_pos f). lra.
    + symmetry. apply round_generic; [apply valid_rnd_ZR|]. apply FLT_format_plus_small; try assumption.
      apply Rlt_le. eapply Rlt_le_trans. exact H. apply bpow_le. lia.
  - set (z := x + y) in *. unfold RZ. set (w := round radix2 (FLT_exp (least f) (bits f)) Ztrunc z).
    assert (U : Rabs (w - z) <= ulp radix2 (FLT_exp (least f) (bits f)) w)
      by (apply error_le_ulp_round; [apply FLT_exp_valid, bits_pos | apply FLT_exp_monotone | apply valid_rnd_ZR]).
    eapply Rle_trans. exact U.
    assert (W : smallest_normal f <= Rabs w).
    { unfold w. apply abs_round_ge_generic; [apply FLT_exp_valid, bits_pos | apply valid_rnd_ZR | | exact H].
      apply generic_format_bpow. unfold FLT_exp. lia. }
    assert (E : w <> 0).
    { intros E. rewrite E, Rabs_R0 in W. unfold smallest_normal in W. generalize (bpow_gt_0 radix2 (least f + bits f - 1)). lra. }
    rewrite ulp_neq_0 by exact E. unfold cexp, FLT_exp, unit_roundoff.
    change 2 with (bpow radix2 1). rewrite <- bpow_plus.
    assert (least f + bits f <= mag radix2 w)%Z by (apply mag_ge_bpow; exact W).
    rewrite Z.max_l by lia.
    replace (mag radix2 w - bits f)%Z with ((1 + - bits f) + (mag radix2 w - 1))%Z by ring. rewrite bpow_plus.
    apply Rmult_le_compat_l; [apply bpow_ge_0 | apply bpow_mag_le; exact E].
Qed.

Variable choice : Z -> bool.

Lemma nearest_error : forall x, Rabs (RN f choice x - x) <= unit_roundoff f * Rabs (RN f choice x) + 2 * eta f.
Proof.
  intros x. assert (He := eta_pos f). assert (Hu := unit_pos f).
  destruct (Rlt_le_dec (Rabs x) (smallest_normal f)) as [H|H].
  - assert (E := subnormal_error f bits_pos choice x H).
    assert (0 <= unit_roundoff f * Rabs (RN f choice x)) by (apply Rmult_le_pos; [lra | apply Rabs_pos]). lra.
  - assert (E := normal_error f bits_pos choice x H).
    assert (unit_roundoff f * ufp x <= unit_roundoff f * Rabs (RN f choice x)); [|lra].
    apply Rmult_le_compat_l; [lra|].
    assert (Hx : x <> 0). { intros ->. rewrite Rabs_R0 in H. unfold smallest_normal in H. generalize (bpow_gt_0 radix2 (least f + bits f - 1)). lra. }
    unfold ufp. destruct Req_EM_T; [contradiction|].
    apply abs_round_ge_generic; [apply FLT_exp_valid, bits_pos | apply valid_rnd_N | | apply bpow_mag_le; exact Hx].
    apply generic_format_bpow. unfold FLT_exp.
    assert (least f + bits f <= mag radix2 x)%Z by (apply mag_ge_bpow; exact H). lia.
Qed.

Lemma nearest_sum_error : forall x y, number f x -> number f y -> Rabs (RN f choice (x + y) - (x + y)) <= unit_roundoff f * Rabs (RN f choice (x + y)).
Proof.
  intros x y Hx Hy. assert (Hu := unit_pos f).
  destruct (Rlt_le_dec (Rabs (x + y)) (smallest_normal f)) as [H|H].
  - rewrite small_sum_exact by assumption. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply Rmult_le_pos; [lra | apply Rabs_pos].
  - set (z := x + y) in *. assert (E := normal_error f bits_pos choice z H). eapply Rle_trans. exact E.
    apply Rmult_le_compat_l; [lra|].
    assert (Hx' : z <> 0). { intros E'. rewrite E', Rabs_R0 in H. unfold smallest_normal in H. generalize (bpow_gt_0 radix2 (least f + bits f - 1)). lra. }
    unfold ufp. destruct Req_EM_T; [contradiction|].
    apply abs_round_ge_generic; [apply FLT_exp_valid, bits_pos | apply valid_rnd_N | | apply bpow_mag_le; exact Hx'].
    apply generic_format_bpow. unfold FLT_exp.
    assert (least f + bits f <= mag radix2 z)%Z by (apply mag_ge_bpow; exact H). lia.
Qed.

End Roundings.

(** The exponent of a factor, that of [2^emin] below the normal range; what stands in for the product there. *)
Definition exponent (emin : Z) (x : R) : Z := if Req_EM_T x 0 then emin else Z.max (mag radix2 x - 1) emin.

Theorem aligned_exponent : forall emin w x m, Rabs w <= m -> Rabs x <= m ->
  bpow radix2 (exponent emin w + exponent emin x) <= Rmax (Rabs (w * x)) (Rmax (m * bpow radix2 emin) (bpow radix2 emin * bpow radix2 emin)).
Proof.
  intros emin w x m Hw Hx.
  assert (L : forall v, bpow radix2 (exponent emin v) <= Rmax (Rabs v) (bpow radix2 emin)).
  { intros v. unfold exponent. destruct Req_EM_T; [apply Rmax_r|].
    destruct (Z.max_spec (mag radix2 v - 1) emin) as [[_ ->]|[_ ->]]; [apply Rmax_r|].
    eapply Rle_trans with (2 := Rmax_l _ _). apply bpow_mag_le; assumption. }
  set (e := bpow radix2 emin) in *. assert (He : 0 <= e) by apply bpow_ge_0.
  rewrite bpow_plus. eapply Rle_trans. apply Rmult_le_compat; try apply bpow_ge_0; apply L.
  rewrite Rabs_mult. assert (W := Rabs_pos w). assert (X := Rabs_pos x).
  assert (G1 : Rabs w * e <= m * e) by (apply Rmult_le_compat_r; lra).
  assert (G2 : e * Rabs x <= m * e) by (rewrite Rmult_comm; apply Rmult_le_compat_r; lra).
  assert (A1 := Rmax_l (Rabs w * Rabs x) (Rmax (m * e) (e * e))). assert (A2 := Rmax_r (Rabs w * Rabs x) (Rmax (m * e) (e * e))).
  assert (A3 := Rmax_l (m * e) (e * e)). assert (A4 := Rmax_r (m * e) (e * e)).
  destruct (Rle_lt_dec (Rabs w) e) as [Hwe|Hwe]; destruct (Rle_lt_dec (Rabs x) e) as [Hxe|Hxe].
  - rewrite (Rmax_right (Rabs w)), (Rmax_right (Rabs x)) by lra. lra.
  - rewrite (Rmax_right (Rabs w)), (Rmax_left (Rabs x)) by lra. lra.
  - rewrite (Rmax_left (Rabs w)), (Rmax_right (Rabs x)) by lra. lra.
  - rewrite (Rmax_left (Rabs w)), (Rmax_left (Rabs x)) by lra. lra.
Qed.
