(** One rounding: theorem 1 of bounds.md, and what sums and fused operations need. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From Flocq Require Import Core Relative Plus_error.
From PrecisionKit Require Import Model.
Open Scope R_scope.

Lemma unit_pos : forall f, 0 < unit_roundoff f.
Proof. intros; apply bpow_gt_0. Qed.

Lemma unit_le_half : forall f, (0 < bits f)%Z -> unit_roundoff f <= / 2.
Proof.
  intros f Hf. change (/ 2) with (bpow radix2 (-1)). apply bpow_le. lia.
Qed.

Lemma eta_pos : forall f, 0 < eta f.
Proof. intros; apply bpow_gt_0. Qed.

Lemma ufp_ge_0 : forall t, 0 <= ufp t.
Proof. intros; unfold ufp; destruct Req_EM_T; [lra | apply bpow_ge_0]. Qed.

Lemma ufp_le : forall t, ufp t <= Rabs t.
Proof.
  intros; unfold ufp; destruct Req_EM_T.
  - apply Rabs_pos.
  - apply bpow_mag_le; assumption.
Qed.

Lemma ufp_monotone : forall s t, Rabs s <= Rabs t -> ufp s <= ufp t.
Proof.
  intros s t H. unfold ufp.
  destruct (Req_EM_T s 0) as [Hs|Hs].
  - destruct Req_EM_T; [lra | apply bpow_ge_0].
  - destruct (Req_EM_T t 0) as [Ht|Ht].
    + subst t. rewrite Rabs_R0 in H. exfalso. apply Hs.
      generalize (Rabs_pos s) (Rabs_pos_lt s Hs). lra.
    + apply bpow_le. generalize (mag_le_abs radix2 s t Hs H). lia.
Qed.

Lemma ufp_abs : forall t, ufp (Rabs t) = ufp t.
Proof. intros. apply Rle_antisym; apply ufp_monotone; rewrite Rabs_Rabsolu; lra. Qed.

Lemma ufp_opp : forall t, ufp (- t) = ufp t.
Proof. intros. apply Rle_antisym; apply ufp_monotone; rewrite Rabs_Ropp; lra. Qed.

Section Format.

Variable f : format.
Hypothesis bits_pos : (0 < bits f)%Z.
Variable choice : Z -> bool.

Local Instance prec_pos : Prec_gt_0 (bits f) := bits_pos.
Notation fexp := (FLT_exp (least f) (bits f)).
Notation u := (unit_roundoff f).
Notation rnd := (RN f choice).

Lemma rnd_number : forall t, number f (rnd t).
Proof. intros. apply generic_format_round. apply FLT_exp_valid, bits_pos. apply valid_rnd_N. Qed.

Lemma rnd_id : forall t, number f t -> rnd t = t.
Proof. intros. apply round_generic; [apply valid_rnd_N | assumption]. Qed.

Lemma rnd_0 : rnd 0 = 0.
Proof. apply rnd_id, generic_format_0. Qed.

Lemma number_0 : number f 0.
Proof. apply generic_format_0. Qed.

Lemma rnd_nearest : forall t n, number f n -> Rabs (rnd t - t) <= Rabs (n - t).
Proof. intros t n Hn. apply (round_N_pt radix2 fexp choice t); assumption. Qed.

Lemma rnd_monotone : forall s t, s <= t -> rnd s <= rnd t.
Proof. intros. apply round_le; [apply FLT_exp_valid, bits_pos | apply valid_rnd_N | assumption]. Qed.

(** The error is at most [u ufp t], or [eta] below the normal range. *)
Lemma rnd_error : forall t, Rabs (rnd t - t) <= store_error f t.
Proof.
  intros t. unfold store_error, ufp.
  destruct (Req_EM_T t 0) as [Ht|Ht].
  - subst t. rewrite rnd_0, Rminus_0_r, Rabs_R0.
    apply Rle_trans with (2 := Rmax_r _ _). apply bpow_ge_0.
  - eapply Rle_trans. apply error_le_half_ulp; apply FLT_exp_valid, bits_pos.
    rewrite ulp_neq_0 by assumption. unfold cexp, FLT_exp, unit_roundoff, eta.
    change (/ 2) with (bpow radix2 (-1)).
    rewrite <- !bpow_plus.
    destruct (Z.max_spec (mag radix2 t - bits f) (least f)) as [[_ ->]|[_ ->]].
    + apply Rle_trans with (2 := Rmax_r _ _). apply bpow_le. lia.
    + apply Rle_trans with (2 := Rmax_l _ _). apply bpow_le. lia.
Qed.

Lemma store_error_monotone : forall s t, Rabs s <= Rabs t -> store_error f s <= store_error f t.
Proof.
  intros. unfold store_error. apply Rle_max_compat_r.
  apply Rmult_le_compat_l. apply Rlt_le, unit_pos. apply ufp_monotone; assumption.
Qed.

(** Where only a bound of the magnitude is known. *)
Lemma rnd_error_within : forall t m, Rabs t <= m -> Rabs (rnd t - t) <= store_error f m.
Proof.
  intros. eapply Rle_trans. apply rnd_error. apply store_error_monotone.
  rewrite (Rabs_right m); [assumption | generalize (Rabs_pos t); lra].
Qed.

Lemma normal_error : forall t, smallest_normal f <= Rabs t -> Rabs (rnd t - t) <= u * ufp t.
Proof.
  intros t Ht. eapply Rle_trans. apply rnd_error. unfold store_error. apply Rmax_lub. lra.
  unfold ufp. destruct (Req_EM_T t 0) as [E|E].
  - subst t. rewrite Rabs_R0 in Ht. unfold smallest_normal in Ht. generalize (bpow_gt_0 radix2 (least f + bits f - 1)). lra.
  - unfold eta, unit_roundoff. rewrite <- bpow_plus. apply bpow_le.
    assert (least f + bits f <= mag radix2 t)%Z; [|lia].
    apply mag_ge_bpow. unfold smallest_normal in Ht. exact Ht.
Qed.

Lemma subnormal_error : forall t, Rabs t < smallest_normal f -> Rabs (rnd t - t) <= eta f.
Proof.
  intros t Ht. eapply Rle_trans. apply rnd_error. unfold store_error. apply Rmax_lub; [|lra].
  unfold ufp. destruct (Req_EM_T t 0) as [E|E].
  - rewrite Rmult_0_r. apply bpow_ge_0.
  - unfold eta, unit_roundoff. rewrite <- bpow_plus. apply bpow_le.
    assert (mag radix2 t <= least f + bits f - 1)%Z; [|lia].
    apply mag_le_bpow; assumption.
Qed.

(** A sum of two numbers below the normal range is a number. *)
Lemma small_sum_exact : forall a b, number f a -> number f b -> Rabs (a + b) < smallest_normal f -> rnd (a + b) = a + b.
Proof.
  intros a b Ha Hb H. apply rnd_id. apply FLT_format_plus_small; try assumption.
  apply Rlt_le. eapply Rlt_le_trans. exact H. apply bpow_le. lia.
Qed.

Lemma number_multiple : forall a, number f a -> multiple f a.
Proof.
  intros a Ha. destruct (FLT_format_generic radix2 (least f) (bits f) a Ha) as [[m e] H1 _ H3]. simpl in H3.
  exists (m * 2 ^ (e - least f))%Z. rewrite H1. unfold F2R; simpl. rewrite mult_IZR. change 2%Z with (radix_val radix2).
  rewrite IZR_Zpower by lia. rewrite Rmult_assoc, <- bpow_plus. do 2 f_equal. ring.
Qed.

Lemma small_multiple_number : forall a, multiple f a -> Rabs a < smallest_normal f -> number f a.
Proof.
  intros a [n ->] H. apply generic_format_FLT. exists (Float radix2 n (least f)); simpl; [reflexivity| |lia].
  apply lt_IZR. rewrite abs_IZR. change (2 ^ bits f)%Z with (radix2 ^ bits f)%Z. rewrite IZR_Zpower by lia.
  unfold smallest_normal in H. rewrite Rabs_mult, (Rabs_right (bpow radix2 (least f))) in H by (apply Rle_ge, bpow_ge_0).
  apply Rmult_lt_reg_r with (bpow radix2 (least f)); [apply bpow_gt_0|]. eapply Rlt_le_trans. exact H.
  rewrite <- bpow_plus. apply bpow_le. lia.
Qed.

(** ... and so is the sum of a number and a multiple of the smallest number. *)
Lemma small_fused_exact : forall a b, multiple f a -> number f b -> Rabs (a + b) < smallest_normal f -> rnd (a + b) = a + b.
Proof.
  intros a b [n Hn] Hb H. apply rnd_id, small_multiple_number; [|exact H].
  destruct (number_multiple b Hb) as [m Hm]. exists (n + m)%Z. rewrite Hn, Hm, plus_IZR. ring.
Qed.

Lemma sum_error : forall a b, number f a -> number f b -> Rabs (rnd (a + b) - (a + b)) <= u * ufp (a + b).
Proof.
  intros a b Ha Hb. destruct (Rlt_le_dec (Rabs (a + b)) (smallest_normal f)) as [H|H].
  - rewrite small_sum_exact by assumption. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0.
    apply Rmult_le_pos. apply Rlt_le, unit_pos. apply ufp_ge_0.
  - apply normal_error; assumption.
Qed.

Lemma sum_error_right : forall a b, number f a -> Rabs (rnd (a + b) - (a + b)) <= Rabs b.
Proof.
  intros a b Ha. eapply Rle_trans. apply rnd_nearest with (n := a); assumption.
  replace (a - (a + b)) with (- b) by ring. rewrite Rabs_Ropp. lra.
Qed.

Lemma sum_error_left : forall a b, number f b -> Rabs (rnd (a + b) - (a + b)) <= Rabs a.
Proof. intros. rewrite (Rplus_comm a b). apply sum_error_right; assumption. Qed.

(** The sharp relative error, [u / (1 + u)]. *)
Lemma sharp_error : forall t, (1 + u) * Rabs (rnd t - t) <= u * Rabs t \/ Rabs (rnd t - t) <= eta f /\ Rabs t < smallest_normal f.
Proof.
  intros t. destruct (Rlt_le_dec (Rabs t) (smallest_normal f)) as [H|H].
  - right. split; [apply subnormal_error|]; assumption.
  - left. set (s := ufp t).
    assert (Hd := normal_error t H). fold s in Hd.
    assert (Hs : 0 <= s) by apply ufp_ge_0.
    assert (Hst : s <= Rabs t) by apply ufp_le.
    assert (Hu := unit_pos f).
    (* |t| = s + rest; the error is at most rest as well, since s is a number *)
    assert (Hn : Rabs (rnd t - t) <= Rabs t - s).
    { assert (t <> 0).
      { intros ->. rewrite Rabs_R0 in H. generalize (bpow_gt_0 radix2 (least f + bits f - 1)). unfold smallest_normal in H. lra. }
      assert (Hb : number f s).
      { unfold s, ufp. destruct Req_EM_T; [contradiction|]. apply generic_format_bpow. unfold FLT_exp.
        assert (least f + bits f <= mag radix2 t)%Z by (apply mag_ge_bpow; exact H). lia. }
      destruct (Rle_lt_dec 0 t) as [Hz|Hz].
      - rewrite (Rabs_right t) in * by lra. eapply Rle_trans. apply rnd_nearest with (n := s); assumption.
        rewrite Rabs_left1 by lra. lra.
      - rewrite (Rabs_left t) in * by lra. eapply Rle_trans. apply rnd_nearest with (n := - s).
        + apply generic_format_opp. assumption.
        + rewrite Rabs_right by lra. lra. }
    (* d <= u s and d <= |t| - s, hence (1 + u) d <= u s + u (|t| - s) *)
    generalize (Rmult_le_compat_l u _ _ (Rlt_le _ _ Hu) Hn). lra.
Qed.

(** ** Overflow *)

Lemma largest_number : (least f + bits f <= top f)%Z -> number f (largest f).
Proof.
  intros H. unfold largest, unit_roundoff. apply generic_format_FLT.
  exists (Float radix2 (2 ^ bits f - 1) (top f - bits f)); simpl.
  - unfold F2R; simpl. rewrite minus_IZR. change 2%Z with (radix_val radix2). rewrite IZR_Zpower by lia.
    replace (bpow radix2 (top f)) with (bpow radix2 (bits f) * bpow radix2 (top f - bits f)).
    2: { rewrite <- bpow_plus. f_equal. lia. }
    rewrite bpow_opp. field. apply Rgt_not_eq, bpow_gt_0.
  - rewrite Z.abs_eq by (generalize (Zpower_gt_0 radix2 (bits f)); simpl; lia). simpl. lia.
  - lia.
Qed.

Lemma no_overflow : (least f + bits f <= top f)%Z -> forall t, Rabs t < overflow_threshold f -> Rabs (rnd t) <= largest f.
Proof.
  intros Hr t Ht.
  assert (HL := largest_number Hr).
  assert (Hpos : 0 <= largest f).
  { unfold largest. apply Rmult_le_pos. generalize (unit_le_half f bits_pos). lra. apply bpow_ge_0. }
  assert (Htop : largest f + unit_roundoff f * bpow radix2 (top f) = bpow radix2 (top f)) by (unfold largest; ring).
  assert (Hthr : overflow_threshold f = largest f + unit_roundoff f / 2 * bpow radix2 (top f)) by (unfold overflow_threshold, largest; field).
  assert (Hub : 0 < u * bpow radix2 (top f)) by (apply Rmult_lt_0_compat; [apply unit_pos | apply bpow_gt_0]).
  (* the next number above the largest is 2^top *)
  assert (Hnext : forall n, number f n -> largest f < n -> bpow radix2 (top f) <= n).
  { intros n Hn Hl.
    assert (E : succ radix2 fexp (largest f) = bpow radix2 (top f)).
    { rewrite succ_eq_pos by assumption. rewrite ulp_neq_0.
      - unfold cexp. rewrite (mag_unique_pos radix2 (largest f) (top f)).
        + unfold FLT_exp. rewrite Z.max_l by lia. rewrite <- Htop. f_equal. unfold unit_roundoff. rewrite <- bpow_plus. f_equal. lia.
        + split.
          * unfold Z.sub. rewrite bpow_plus. unfold largest. rewrite (Rmult_comm (1 - u)). apply Rmult_le_compat_l. apply bpow_ge_0.
            change (bpow radix2 (-(1))) with (/ 2). generalize (unit_le_half f bits_pos). lra.
          * lra.
      - unfold largest. apply Rmult_integral_contrapositive. split.
        + generalize (unit_le_half f bits_pos). lra.
        + apply Rgt_not_eq, bpow_gt_0. }
    rewrite <- E. apply succ_le_lt; try assumption. apply FLT_exp_valid, bits_pos. }
  assert (Hup : forall s, s < overflow_threshold f -> rnd s <= largest f).
  { intros s Hs. destruct (Rle_lt_dec (rnd s) (largest f)) as [H|H]; [exact H | exfalso].
    assert (H1 := Hnext _ (rnd_number s) H).
    assert (H2 := rnd_nearest s (largest f) HL).
    destruct (Rle_lt_dec s (largest f)) as [H3|H3].
    - assert (H4 := rnd_monotone _ _ H3). rewrite (rnd_id _ HL) in H4. lra.
    - rewrite (Rabs_left1 (largest f - s)) in H2 by lra. generalize (Rle_abs (rnd s - s)). lra. }
  assert (Hdown : forall s, - overflow_threshold f < s -> - largest f <= rnd s).
  { intros s Hs. destruct (Rle_lt_dec (- largest f) (rnd s)) as [H|H]; [exact H | exfalso].
    assert (HL' : number f (- largest f)) by (apply generic_format_opp; exact HL).
    assert (H0 : number f (- rnd s)) by (apply generic_format_opp, rnd_number).
    assert (H1 := Hnext _ H0 ltac:(lra)).
    assert (H2 := rnd_nearest s (- largest f) HL').
    destruct (Rle_lt_dec (- largest f) s) as [H3|H3].
    - assert (H4 := rnd_monotone _ _ H3). rewrite (rnd_id _ HL') in H4. lra.
    - rewrite (Rabs_right (- largest f - s)) in H2 by lra. generalize (Rle_abs (- (rnd s - s))). rewrite Rabs_Ropp. lra. }
  apply Rabs_def2 in Ht. apply Rabs_le. split; [apply Hdown | apply Hup]; lra.
Qed.

(** ** What the toolkit's own rounding may do: theorem 15. *)

Lemma step_up : forall t, t <= succ radix2 fexp (rnd t).
Proof. intros. apply succ_round_ge_id. apply FLT_exp_valid, bits_pos. apply valid_rnd_N. Qed.

(** The sign of a rounded difference is that of the difference. *)
Lemma difference_positive : forall a b, number f a -> number f b -> (0 < rnd (a - b) <-> b < a).
Proof.
  intros a b Ha Hb. split; intros H.
  - destruct (Rle_lt_dec a b) as [H1|H1]; [exfalso | exact H1].
    assert (H2 := rnd_monotone (a - b) 0 ltac:(lra)). rewrite rnd_0 in H2. lra.
  - destruct (Rlt_le_dec (Rabs (a - b)) (smallest_normal f)) as [H1|H1].
    + unfold Rminus in *. rewrite small_sum_exact; try assumption. lra. apply generic_format_opp; assumption.
    + assert (H2 := normal_error _ H1). assert (H3 := ufp_le (a - b)).
      assert (H4 := unit_le_half f bits_pos). assert (H5 := ufp_ge_0 (a - b)).
      rewrite (Rabs_right (a - b)) in H3 by lra.
      assert (u * ufp (a - b) <= / 2 * (a - b)) by (apply Rmult_le_compat; try lra; apply Rlt_le, unit_pos).
      assert (H7 := Rle_abs (- (rnd (a - b) - (a - b)))). rewrite Rabs_Ropp in H7. lra.
Qed.

Lemma difference_nonnegative : forall a b, number f a -> number f b -> (0 <= rnd (a - b) <-> b <= a).
Proof.
  intros a b Ha Hb. split; intros H.
  - destruct (Rle_lt_dec b a) as [H1|H1]; [exact H1 | exfalso].
    assert (H2 := proj2 (difference_positive b a Hb Ha) H1).
    assert (E : rnd (a - b) <= - rnd (b - a) \/ rnd (a - b) < 0).
    { right. destruct (Rlt_le_dec (Rabs (a - b)) (smallest_normal f)) as [H3|H3].
      - unfold Rminus in *. rewrite small_sum_exact; try assumption. lra. apply generic_format_opp; assumption.
      - assert (H4 := normal_error _ H3). assert (H5 := ufp_le (a - b)).
        assert (H6 := unit_le_half f bits_pos). assert (H7 := ufp_ge_0 (a - b)).
        rewrite (Rabs_left (a - b)) in H5 by lra.
        assert (u * ufp (a - b) <= / 2 * (- (a - b))) by (apply Rmult_le_compat; try lra; apply Rlt_le, unit_pos).
        assert (H9 := Rle_abs (rnd (a - b) - (a - b))). lra. }
    lra.
  - assert (H2 := rnd_monotone 0 (a - b) ltac:(lra)). rewrite rnd_0 in H2. lra.
Qed.

End Format.
