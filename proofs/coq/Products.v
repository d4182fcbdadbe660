(** What one product loses, by format. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From Flocq Require Import Core Relative.
From PrecisionKit Require Import Model Rounding.
Open Scope R_scope.

Section Products.

Variables narrow wide : format.
Hypothesis narrow_pos : (0 < bits narrow)%Z.
Hypothesis wide_pos : (0 < bits wide)%Z.

Local Instance narrow_prec : Prec_gt_0 (bits narrow) := narrow_pos.
Local Instance wide_prec : Prec_gt_0 (bits wide) := wide_pos.

Lemma number_float : forall f x, (0 < bits f)%Z -> number f x -> exists m e, x = F2R (Float radix2 m e) /\ (Z.abs m < 2 ^ bits f)%Z /\ (least f <= e)%Z.
Proof.
  intros f x Hf Hx. assert (Prec_gt_0 (bits f)) by exact Hf. destruct (FLT_format_generic radix2 (least f) (bits f) x Hx) as [[m e] H1 H2 H3]. exists m, e. auto.
Qed.

(** [2 p] bits hold a product of two numbers of p bits, and its last bit is a multiple of the smallest number. *)
Theorem product_exact : forall x y, (2 * bits narrow <= bits wide)%Z -> (least wide <= 2 * least narrow)%Z ->
  number narrow x -> number narrow y -> number wide (x * y).
Proof.
  intros x y Hb Hl Hx Hy.
  destruct (number_float _ _ narrow_pos Hx) as [m1 [e1 [-> [M1 E1]]]]. destruct (number_float _ _ narrow_pos Hy) as [m2 [e2 [-> [M2 E2]]]].
  apply generic_format_FLT. exists (Float radix2 (m1 * m2) (e1 + e2)); simpl.
  - unfold F2R; simpl. rewrite mult_IZR, bpow_plus. ring.
  - rewrite Z.abs_mul. apply Z.lt_le_trans with (2 ^ bits narrow * 2 ^ bits narrow)%Z.
    + apply Zmult_lt_compat; split; try apply Z.abs_nonneg; assumption.
    + rewrite <- Z.pow_add_r by lia. apply Z.pow_le_mono_r; lia.
  - lia.
Qed.

(** Without the second condition, what is lost is lost below the normal range. *)
Theorem product_exact_if_normal : forall choice x y, (2 * bits narrow <= bits wide)%Z ->
  number narrow x -> number narrow y -> Rabs (RN wide choice (x * y) - x * y) <= eta wide.
Proof.
  intros choice x y Hb Hx Hy. destruct (Rlt_le_dec (Rabs (x * y)) (smallest_normal wide)) as [H|H].
  - apply subnormal_error; assumption.
  - rewrite rnd_id; try assumption. { unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply bpow_ge_0. }
    destruct (number_float _ _ narrow_pos Hx) as [m1 [e1 [-> [M1 E1]]]]. destruct (number_float _ _ narrow_pos Hy) as [m2 [e2 [-> [M2 E2]]]].
    assert (F : (F2R (Float radix2 m1 e1) * F2R (Float radix2 m2 e2))%R = F2R (Float radix2 (m1 * m2) (e1 + e2))).
    { unfold F2R; simpl. rewrite mult_IZR, bpow_plus. ring. }
    rewrite F in *. apply generic_format_F2R. intros Hm.
    unfold cexp, FLT_exp. rewrite mag_F2R by exact Hm.
    assert (A : (mag radix2 (IZR (m1 * m2)) <= bits wide)%Z).
    { apply mag_le_Zpower; [exact Hm|]. change (radix2 ^ bits wide)%Z with (2 ^ bits wide)%Z. rewrite Z.abs_mul. apply Z.lt_le_trans with (2 ^ bits narrow * 2 ^ bits narrow)%Z.
      - apply Zmult_lt_compat; split; try apply Z.abs_nonneg; assumption.
      - rewrite <- Z.pow_add_r by lia. apply Z.pow_le_mono_r; lia. }
    assert (B : (least wide + bits wide <= mag radix2 (F2R (Float radix2 (m1 * m2) (e1 + e2))))%Z) by (apply mag_ge_bpow; exact H).
    rewrite mag_F2R in B by exact Hm. lia.
Qed.

(** The three rules of [Arithmetic.product_roundoff] and [product_underflow]. *)
Theorem product_rule_exact : forall choice x y, (2 * bits narrow <= bits wide)%Z -> (least wide <= 2 * least narrow)%Z ->
  number narrow x -> number narrow y -> product_error wide choice 0 0 (x * y).
Proof.
  intros choice x y Hb Hl Hx Hy. assert (N := product_exact x y Hb Hl Hx Hy). split; [|left; apply number_multiple; assumption].
  rewrite rnd_id by assumption. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
Qed.

Theorem product_rule_underflow : forall choice x y, (2 * bits narrow <= bits wide)%Z ->
  number narrow x -> number narrow y -> product_error wide choice 0 (eta wide) (x * y).
Proof.
  intros choice x y Hb Hx Hy. split; [|right; lra]. generalize (product_exact_if_normal choice x y Hb Hx Hy). lra.
Qed.

Theorem product_rule_rounded : forall choice v, product_error wide choice (unit_roundoff wide) (eta wide) v.
Proof.
  intros choice v. split; [|right; lra]. assert (Hu := unit_pos wide). assert (He := eta_pos wide). assert (Hv := Rabs_pos v).
  assert (0 <= unit_roundoff wide * Rabs v) by (apply Rmult_le_pos; lra).
  destruct (Rlt_le_dec (Rabs v) (smallest_normal wide)) as [H1|H1].
  - generalize (subnormal_error wide wide_pos choice v H1). lra.
  - generalize (normal_error wide wide_pos choice v H1). assert (unit_roundoff wide * ufp v <= unit_roundoff wide * Rabs v); [|lra].
    apply Rmult_le_compat_l; [lra | apply ufp_le].
Qed.

(** ... and the one where the last bit of a product is kept. *)
Theorem product_multiple : forall x y, (least wide <= 2 * least narrow)%Z -> number narrow x -> number narrow y -> multiple wide (x * y).
Proof.
  intros x y Hl Hx Hy.
  destruct (number_float _ _ narrow_pos Hx) as [m1 [e1 [-> [_ E1]]]]. destruct (number_float _ _ narrow_pos Hy) as [m2 [e2 [-> [_ E2]]]].
  exists (m1 * m2 * 2 ^ (e1 + e2 - least wide))%Z. unfold F2R; simpl. rewrite !mult_IZR. change 2%Z with (radix_val radix2).
  rewrite IZR_Zpower by lia.
  replace (IZR m1 * IZR m2 * bpow radix2 (e1 + e2 - least wide) * bpow radix2 (least wide))
    with (IZR m1 * IZR m2 * (bpow radix2 (e1 + e2 - least wide) * bpow radix2 (least wide))) by ring.
  rewrite <- bpow_plus. replace (e1 + e2 - least wide + least wide)%Z with (e1 + e2)%Z by ring. rewrite bpow_plus. ring.
Qed.

Theorem product_rule_no_underflow : forall choice x y, (least wide <= 2 * least narrow)%Z ->
  number narrow x -> number narrow y -> product_error wide choice (unit_roundoff wide) 0 (x * y).
Proof.
  intros choice x y Hl Hx Hy. assert (M := product_multiple x y Hl Hx Hy). split; [|left; exact M].
  assert (Hu := unit_pos wide). assert (Hv := Rabs_pos (x * y)).
  assert (0 <= unit_roundoff wide * Rabs (x * y)) by (apply Rmult_le_pos; lra).
  destruct (Rlt_le_dec (Rabs (x * y)) (smallest_normal wide)) as [H1|H1].
  - rewrite rnd_id; [unfold Rminus; rewrite Rplus_opp_r, Rabs_R0; lra | apply small_multiple_number; assumption].
  - generalize (normal_error wide wide_pos choice _ H1). assert (unit_roundoff wide * ufp (x * y) <= unit_roundoff wide * Rabs (x * y)); [|lra].
    apply Rmult_le_compat_l; [lra | apply ufp_le].
Qed.

End Products.

(** binary16 and bfloat16 in binary32. *)
Theorem half_products_exact_in_binary32 : forall x y, number binary16 x -> number binary16 y -> number binary32 (x * y).
Proof. intros. apply (product_exact binary16 binary32); try assumption; simpl; lia. Qed.

Theorem bfloat16_products_in_binary32 : forall choice x y, number bfloat16 x -> number bfloat16 y ->
  Rabs (RN binary32 choice (x * y) - x * y) <= eta binary32.
Proof. intros. apply (product_exact_if_normal bfloat16 binary32); try assumption; simpl; lia. Qed.
