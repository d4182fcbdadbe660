(** Random rounding: theorem 20 of bounds.md, for finitely many outcomes (formats are finite, so a run has no more). *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From PrecisionKit Require Import Model Softmax.
Open Scope R_scope.

(** ** Hoeffding's lemma *)

Lemma cosh_pos : forall y, 0 < cosh y.
Proof. intros. unfold cosh. generalize (exp_pos y) (exp_pos (- y)). lra. Qed.

Lemma cosh_even : forall y, cosh (- y) = cosh y.
Proof. intros. unfold cosh. rewrite Ropp_involutive. lra. Qed.

Lemma cosh_le : forall y, cosh y <= exp (y * y / 2).
Proof.
  assert (Pos : forall y, 0 < y -> cosh y <= exp (y * y / 2)).
  { intros y Hy.
    set (h := fun v => v * v / 2 - ln (cosh v)).
    destruct (MVT_cor2 h (fun v => v - sinh v / cosh v) 0 y Hy) as [c [Hc1 Hc2]].
    { intros c Hc. unfold h.
      apply derivable_pt_lim_minus.
      - replace c with ((1 * c + c * 1) / 2) at 2 by field. unfold Rdiv.
        replace ((1 * c + c * 1) * / 2) with ((1 * c + c * 1) * / 2 + c * c * 0) by ring.
        apply (derivable_pt_lim_mult (fun v => v * v) (fun _ => / 2)).
        + apply (derivable_pt_lim_mult (fun v => v) (fun v => v)); apply derivable_pt_lim_id.
        + apply derivable_pt_lim_const.
      - replace (sinh c / cosh c) with (/ cosh c * sinh c) by (unfold Rdiv; ring).
        apply (derivable_pt_lim_comp cosh ln).
        + apply derivable_pt_lim_cosh.
        + apply derivable_pt_lim_ln. apply cosh_pos. }
    assert (T : sinh c / cosh c <= c).
    { change (sinh c / cosh c) with (tanh c). replace c with (2 * c / 2) at 1 by field. rewrite <- tanh_half.
      assert (H := tanh_half_le (2 * c) ltac:(lra)). lra. }
    assert (D : 0 <= (c - sinh c / cosh c) * (y - 0)) by (apply Rmult_le_pos; lra).
    unfold h in Hc1. rewrite cosh_0, ln_1 in Hc1.
    assert (L : ln (cosh y) <= y * y / 2) by lra.
    rewrite <- (exp_ln (cosh y)) by apply cosh_pos. apply exp_monotone. exact L. }
  intros y. destruct (Rtotal_order y 0) as [H|[->|H]].
  - rewrite <- cosh_even. replace (y * y / 2) with (- y * - y / 2) by field. apply Pos. lra.
  - rewrite cosh_0. replace (0 * 0 / 2) with 0 by field. rewrite exp_0. lra.
  - apply Pos; exact H.
Qed.

Lemma exp_convex : forall s a b, 0 <= s <= 1 -> exp (s * a + (1 - s) * b) <= s * exp a + (1 - s) * exp b.
Proof.
  intros s a b Hs. set (m := s * a + (1 - s) * b). assert (Pm := exp_pos m).
  assert (T : forall v, exp m * (1 + (v - m)) <= exp v).
  { intros v. replace (exp v) with (exp m * exp (v - m)) by (rewrite <- exp_plus; f_equal; ring). apply Rmult_le_compat_l; [lra|]. apply exp_ineq1_le. }
  assert (A := Rmult_le_compat_l s _ _ (proj1 Hs) (T a)). assert (B := Rmult_le_compat_l (1 - s) _ _ ltac:(lra) (T b)).
  assert (E : s * (exp m * (1 + (a - m))) + (1 - s) * (exp m * (1 + (b - m))) = exp m) by (unfold m; ring). lra.
Qed.

(** The chord of the exponential on [-r, r]. *)
Lemma chord : forall l r x, Rabs x <= r -> exists k, (forall y, Rabs y <= r -> exp (l * y) <= cosh (l * r) + k * y).
Proof.
  intros l r x Hx. assert (Hr : 0 <= r) by (generalize (Rabs_pos x); lra).
  destruct (Req_EM_T r 0) as [->|Hn].
  - exists 0. intros y Hy. assert (y = 0).
    { destruct (Req_EM_T y 0) as [E|E]; [exact E|]. generalize (Rabs_pos_lt y E). lra. }
    subst y. rewrite Rmult_0_r, exp_0, cosh_0. lra.
  - exists (sinh (l * r) / r). intros y Hy.
    assert (Hy' : - r <= y <= r) by (unfold Rabs in Hy; destruct (Rcase_abs y); lra).
    set (s := (r + y) / (2 * r)).
    assert (Hs : 0 <= s <= 1).
    { unfold s. split.
      - apply Rmult_le_pos; [lra|]. left. apply Rinv_0_lt_compat. lra.
      - apply Rmult_le_reg_r with (2 * r); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra. }
    replace (l * y) with (s * (l * r) + (1 - s) * (- (l * r))) by (unfold s; field; lra).
    eapply Rle_trans. apply exp_convex; exact Hs. right. unfold cosh, sinh, s. field. lra.
Qed.

(** ** Finite probability *)

Section Probability.

Variable outcomes : nat.
Variable weight : nat -> R.
Hypothesis weight_nonneg : forall w, 0 <= weight w.
Hypothesis weight_total : sum outcomes weight = 1.

Definition expectation (f : nat -> R) : R := sum outcomes (fun w => weight w * f w).
Definition indicator (P : Prop) (dec : {P} + {~ P}) : R := if dec then 1 else 0.
Definition probability (P : nat -> Prop) (dec : forall w, {P w} + {~ P w}) : R := expectation (fun w => indicator (P w) (dec w)).

Lemma expectation_le : forall f g, (forall w, f w <= g w) -> expectation f <= expectation g.
Proof. intros. apply sum_le. intros. apply Rmult_le_compat_l; auto. Qed.

Lemma expectation_plus : forall f g, expectation (fun w => f w + g w) = expectation f + expectation g.
Proof. intros. unfold expectation. rewrite <- sum_plus. apply sum_ext. intros; ring. Qed.

Lemma expectation_scal : forall a f, expectation (fun w => a * f w) = a * expectation f.
Proof. intros. unfold expectation. rewrite <- sum_scal. apply sum_ext. intros; ring. Qed.

Lemma expectation_ext : forall f g, (forall w, f w = g w) -> expectation f = expectation g.
Proof. intros. apply sum_ext. intros. f_equal. auto. Qed.

Lemma expectation_one : expectation (fun _ => 1) = 1.
Proof. unfold expectation. rewrite (sum_ext _ _ weight) by (intros; ring). exact weight_total. Qed.

(** What depends on the rounding errors before the k-th alone. *)
Definition of_past {T} (k : nat) (f : (nat -> R) -> T) : Prop := forall a b, (forall j, (j < k)%nat -> a j = b j) -> f a = f b.

(** Every rounding error has mean zero given those before it. *)
Definition mean_zero (n : nat) (X : nat -> nat -> R) : Prop :=
  forall k, (k < n)%nat -> forall f : (nat -> R) -> R, of_past k f -> expectation (fun w => f (fun j => X j w) * X k w) = 0.

Lemma moments : forall n X c r l, mean_zero n X -> (forall k w, (k < n)%nat -> Rabs (X k w) <= r k) ->
  forall m, (m <= n)%nat -> expectation (fun w => exp (l * sum m (fun k => c k * X k w))) <= exp (l * l / 2 * sum m (fun k => (c k * r k) * (c k * r k))).
Proof.
  intros n X c r l HX Hr. induction m as [|m IH]; intros Hm.
  - simpl. rewrite !Rmult_0_r, exp_0. rewrite expectation_one. lra.
  - specialize (IH ltac:(lia)).
    destruct (chord (l * c m) (r m) (X m 0%nat) (Hr m 0%nat ltac:(lia))) as [k Hk].
    apply Rle_trans with (expectation (fun w => cosh (l * c m * r m) * exp (l * sum m (fun k => c k * X k w)) + k * (exp (l * sum m (fun k => c k * X k w)) * X m w))).
    + apply expectation_le. intros w. simpl. rewrite Rmult_plus_distr_l, exp_plus.
      assert (P := exp_pos (l * sum m (fun k => c k * X k w))). assert (C := Hk (X m w) (Hr m w ltac:(lia))).
      rewrite <- Rmult_assoc. assert (M := Rmult_le_compat_l _ _ _ (Rlt_le _ _ P) C). lra.
    + rewrite expectation_plus, !expectation_scal.
      rewrite (HX m ltac:(lia) (fun a => exp (l * sum m (fun k => c k * a k)))).
      2: { intros a b H. do 2 f_equal. apply sum_ext. intros j Hj. rewrite H by exact Hj. reflexivity. }
      rewrite Rmult_0_r, Rplus_0_r. simpl. rewrite Rmult_plus_distr_l, exp_plus.
      rewrite (Rmult_comm (exp (l * l / 2 * sum m _))).
      apply Rmult_le_compat.
      * left; apply cosh_pos.
      * apply sum_nonneg. intros j Hj. apply Rmult_le_pos; [auto | left; apply exp_pos].
      * eapply Rle_trans. apply cosh_le. right. f_equal. field.
      * exact IH.
Qed.

Lemma bounded_tail : forall n X c r t (dec : forall w, {sum n (fun k => c k * X k w) > t * sqrt (sum n (fun k => (c k * r k) * (c k * r k)))} + {~ _}),
  mean_zero n X -> (forall k w, (k < n)%nat -> Rabs (X k w) <= r k) -> 0 <= t ->
  probability (fun w => sum n (fun k => c k * X k w) > t * sqrt (sum n (fun k => (c k * r k) * (c k * r k)))) dec <= exp (- (t * t) / 2).
Proof.
  intros n X c r t dec HX Hr Ht. set (v := sum n (fun k => c k * r k * (c k * r k))) in *.
  assert (Hv : 0 <= v) by (apply sum_nonneg; intros; apply Rle_0_sqr).
  set (s := sqrt v) in *. assert (Hs : s * s = v) by (apply sqrt_sqrt; exact Hv). assert (Hs0 : 0 <= s) by apply sqrt_pos.
  destruct (Req_EM_T s 0) as [Es|Es].
  - (* nothing is rounded at all *)
    assert (Z : forall w, sum n (fun k => c k * X k w) <= 0).
    { assert (Each : forall k, (k < n)%nat -> c k * r k = 0).
      { intros k Hk. assert (V0 : v = 0) by (rewrite <- Hs, Es; ring).
        unfold v in V0. rewrite (sum_without n k _ Hk) in V0.
        assert (0 <= sum n (without k (fun k => c k * r k * (c k * r k)))).
        { apply sum_nonneg. intros j Hj. unfold without. destruct Nat.eq_dec; [lra | apply Rle_0_sqr]. }
        generalize (Rle_0_sqr (c k * r k)). unfold Rsqr. intros. apply Rsqr_0_uniq. unfold Rsqr. lra. }
      intros w. assert (H : sum n (fun k => c k * X k w) <= sum n (fun k => Rabs (c k * r k))).
      { apply sum_le. intros j Hj. eapply Rle_trans. apply Rle_abs. rewrite !Rabs_mult. apply Rmult_le_compat_l; [apply Rabs_pos|].
        eapply Rle_trans with (2 := Rle_abs _). apply Hr; exact Hj. }
      assert (H2 : sum n (fun k => Rabs (c k * r k)) <= sum n (fun k => 0 * 0)).
      { apply sum_le. intros j Hj. rewrite Each by exact Hj. rewrite Rabs_R0. lra. }
      rewrite sum_scal in H2. lra. }
    apply Rle_trans with 0; [|left; apply exp_pos].
    unfold probability. apply Rle_trans with (expectation (fun w => 0 * 1)).
    + apply expectation_le. intros w. unfold indicator. destruct (dec w) as [d|d]; [|lra]. exfalso. specialize (Z w). rewrite Es in d. lra.
    + rewrite expectation_scal. lra.
  - set (l := t / s). assert (Hl : 0 <= l) by (apply Rmult_le_pos; [exact Ht | left; apply Rinv_0_lt_compat; lra]).
    assert (M := moments n X c r l HX Hr n (le_n n)). fold v in M.
    apply Rle_trans with (expectation (fun w => exp (- (l * (t * s))) * exp (l * sum n (fun k => c k * X k w)))).
    + apply expectation_le. intros w. rewrite <- exp_plus. unfold indicator. destruct (dec w) as [d|d].
      * rewrite <- exp_0 at 1. apply exp_monotone.
        assert (0 <= l * (sum n (fun k => c k * X k w) - t * s)) by (apply Rmult_le_pos; lra). lra.
      * left; apply exp_pos.
    + rewrite expectation_scal.
      apply Rle_trans with (exp (- (l * (t * s))) * exp (l * l / 2 * v)).
      * apply Rmult_le_compat_l; [left; apply exp_pos | exact M].
      * rewrite <- exp_plus. right. f_equal. rewrite <- Hs. unfold l. field. exact Es.
Qed.

(** Azuma's inequality, with bounds that hold as long as the enclosures do: [held k] tells from the past whether those relied on
    for the k-th rounding error have held so far. *)
Theorem azuma : forall n X c r t (held : nat -> (nat -> R) -> bool),
  mean_zero n X -> (forall k, of_past k (held k)) ->
  (forall k w, (k < n)%nat -> held k (fun j => X j w) = true -> Rabs (X k w) <= r k) -> (forall k, 0 <= r k) -> 0 <= t ->
  forall dec : forall w, {(forall k, (k < n)%nat -> held k (fun j => X j w) = true) /\
      sum n (fun k => c k * X k w) > t * sqrt (sum n (fun k => (c k * r k) * (c k * r k)))} + {~ _},
  probability (fun w => (forall k, (k < n)%nat -> held k (fun j => X j w) = true) /\
      sum n (fun k => c k * X k w) > t * sqrt (sum n (fun k => (c k * r k) * (c k * r k)))) dec <= exp (- (t * t) / 2).
Proof.
  intros n X c r t held HX Hheld Hr Hr0 Ht dec.
  set (stop := fun (a : nat -> R) k => if held k a then a k else 0).
  set (Y := fun k w => stop (fun j => X j w) k).
  assert (HY : mean_zero n Y).
  { intros k Hk f Hf.
    assert (P : of_past k (fun a => f (stop a) * (if held k a then 1 else 0))).
    2: apply eq_trans with (2 := HX k Hk _ P).
    - intros a b Hab. f_equal.
      + apply Hf. intros j Hj. unfold stop. rewrite (Hheld j a b) by (intros; apply Hab; lia). rewrite Hab by exact Hj. reflexivity.
      + rewrite (Hheld k a b) by exact Hab. reflexivity.
    - apply expectation_ext. intros w. change (f (fun j => Y j w)) with (f (stop (fun j => X j w))).
      change (Y k w) with (if held k (fun j => X j w) then X k w else 0). destruct held; ring. }
  assert (HYr : forall k w, (k < n)%nat -> Rabs (Y k w) <= r k).
  { intros k w Hk. unfold Y, stop. destruct held eqn:E; [apply Hr; assumption|]. rewrite Rabs_R0. apply Hr0. }
  set (level := t * sqrt (sum n (fun k => c k * r k * (c k * r k)))) in *.
  assert (decY : forall w, {sum n (fun k => c k * Y k w) > level} + {~ sum n (fun k => c k * Y k w) > level}) by (intros; apply Rgt_dec).
  apply Rle_trans with (2 := bounded_tail n Y c r t decY HY HYr Ht).
  apply expectation_le. intros w. unfold indicator. destruct (dec w) as [[d1 d2]|d]; destruct (decY w) as [e|e]; try lra.
  exfalso. apply e. rewrite (sum_ext n _ (fun k => c k * X k w)); [exact d2|]. intros j Hj. unfold Y, stop. rewrite d1 by exact Hj. reflexivity.
Qed.

(** The probability that any of m statements fails: each counts where those before it hold. *)
Theorem union_bound : forall m (B : nat -> nat -> bool) q,
  (forall i, (i < m)%nat -> expectation (fun w => if B i w then (if forallb (fun j => negb (B j w)) (seq 0 i) then 1 else 0) else 0) <= q i) ->
  expectation (fun w => if existsb (fun i => B i w) (seq 0 m) then 1 else 0) <= sum m q.
Proof.
  induction m as [|m IH]; intros B q H.
  - simpl. rewrite (expectation_ext _ (fun _ => 0 * 1)) by (intros; ring). rewrite expectation_scal. lra.
  - simpl sum. specialize (IH B q (fun i Hi => H i ltac:(lia))). specialize (H m ltac:(lia)).
    apply Rle_trans with (expectation (fun w => (if existsb (fun i => B i w) (seq 0 m) then 1 else 0)
        + (if B m w then (if forallb (fun j => negb (B j w)) (seq 0 m) then 1 else 0) else 0))).
    + apply expectation_le. intros w. rewrite seq_S, existsb_app. simpl. rewrite Bool.orb_false_r.
      assert (E : forallb (fun j => negb (B j w)) (seq 0 m) = negb (existsb (fun i => B i w) (seq 0 m))).
      { generalize (seq 0 m). clear. induction l as [|a l IHl]; simpl; [reflexivity|]. rewrite IHl, Bool.negb_orb. reflexivity. }
      rewrite E. destruct existsb, (B m w); simpl; lra.
    + rewrite expectation_plus. lra.
Qed.

End Probability.
