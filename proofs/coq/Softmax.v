(** Softmax in exact arithmetic: it keeps the order, and moves by at most tanh(d / 2) in the sup-norm. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From PrecisionKit Require Import Model.
Open Scope R_scope.

Definition softmax (z : nat -> R) (n i : nat) : R := exp (z i) / sum n (fun j => exp (z j)).

Lemma sum_pos : forall n f, (0 < n)%nat -> (forall j, 0 < f j) -> 0 < sum n f.
Proof.
  intros n f Hn Hf. assert (H : forall m, 0 <= sum m f) by (induction m; simpl; [lra | generalize (Hf m); lra]).
  destruct n; [lia|]. simpl. generalize (H n) (Hf n). lra.
Qed.

Lemma sum_nonneg : forall n f, (forall j, (j < n)%nat -> 0 <= f j) -> 0 <= sum n f.
Proof. induction n; simpl; intros; [lra|]. apply Rplus_le_le_0_compat; auto. Qed.

Lemma sum_le : forall n f g, (forall j, (j < n)%nat -> f j <= g j) -> sum n f <= sum n g.
Proof. induction n; simpl; intros f g H; [lra|]. apply Rplus_le_compat; auto. Qed.

Lemma sum_scal : forall n a f, sum n (fun j => a * f j) = a * sum n f.
Proof. induction n; simpl; intros; [|rewrite IHn]; lra. Qed.

Lemma sum_plus : forall n f g, sum n (fun j => f j + g j) = sum n f + sum n g.
Proof. induction n; simpl; intros; [|rewrite IHn]; lra. Qed.

Lemma sum_ext : forall n f g, (forall j, (j < n)%nat -> f j = g j) -> sum n f = sum n g.
Proof. induction n; simpl; intros f g H; [reflexivity|]. rewrite (IHn f g), H; auto. Qed.

Definition without (i : nat) (f : nat -> R) (j : nat) : R := if Nat.eq_dec j i then 0 else f j.

Lemma sum_without : forall n i f, (i < n)%nat -> sum n f = f i + sum n (without i f).
Proof.
  induction n; simpl; intros i f Hi; [lia|].
  destruct (Nat.eq_dec i n) as [->|H].
  - unfold without at 2. destruct Nat.eq_dec; [|lia].
    assert (sum n f = sum n (without n f)); [|lra]. apply sum_ext. intros j Hj. unfold without. destruct Nat.eq_dec; [lia|reflexivity].
  - rewrite (IHn i f) by lia. unfold without at 3. destruct Nat.eq_dec; [lia|]. lra.
Qed.

Theorem softmax_order : forall z n i j, (0 < n)%nat -> (softmax z n i < softmax z n j <-> z i < z j).
Proof.
  intros z n i j Hn. unfold softmax, Rdiv. assert (H := sum_pos n (fun k => exp (z k)) Hn (fun k => exp_pos (z k))).
  assert (Hi := Rinv_0_lt_compat _ H). split; intros L.
  - apply exp_lt_inv. apply Rmult_lt_reg_r with (2 := L). exact Hi.
  - apply Rmult_lt_compat_r; [exact Hi | apply exp_increasing; exact L].
Qed.

Lemma exp_monotone : forall a b, a <= b -> exp a <= exp b.
Proof. intros a b [H| ->]; [left; apply exp_increasing; exact H | lra]. Qed.

(** One of two fractions whose parts differ by a factor of at most s. *)
Lemma fractions : forall s a b a' b', 1 <= s -> 0 < a -> 0 <= b -> 0 < a' -> 0 <= b' -> a' <= s * a -> b <= s * b' ->
  a' / (a' + b') - a / (a + b) <= (s - 1) / (s + 1).
Proof.
  intros s a b a' b' Hs Ha Hb Ha' Hb' H1 H2.
  (* the left side is largest at a' = s a and b' = b / s *)
  assert (P : 0 < a' + b') by lra. assert (Q : 0 < a + b) by lra.
  assert (A : a' / (a' + b') <= s * s * a / (s * s * a + b)).
  { assert (W : 0 < s * s * a + b). { assert (0 < s * s * a) by (repeat apply Rmult_lt_0_compat; lra). lra. }
    apply Rmult_le_reg_r with ((a' + b') * (s * s * a + b)). apply Rmult_lt_0_compat; assumption.
    replace (a' / (a' + b') * ((a' + b') * (s * s * a + b))) with (a' * (s * s * a + b)) by (field; lra).
    replace (s * s * a / (s * s * a + b) * ((a' + b') * (s * s * a + b))) with (s * s * a * (a' + b')) by (field; lra).
    assert (a' * b <= (s * a) * (s * b')) by (apply Rmult_le_compat; lra). lra. }
  assert (B : s * s * a / (s * s * a + b) - a / (a + b) <= (s - 1) / (s + 1)); [|lra].
  assert (W : 0 < s * s * a + b). { assert (0 < s * s * a) by (repeat apply Rmult_lt_0_compat; lra). lra. }
  apply Rmult_le_reg_r with ((s * s * a + b) * (a + b) * (s + 1)).
  { repeat apply Rmult_lt_0_compat; lra. }
  replace ((s * s * a / (s * s * a + b) - a / (a + b)) * ((s * s * a + b) * (a + b) * (s + 1)))
    with ((s - 1) * ((s + 1) * (s + 1) * (a * b))) by (field; lra).
  replace ((s - 1) / (s + 1) * ((s * s * a + b) * (a + b) * (s + 1))) with ((s - 1) * ((s * s * a + b) * (a + b))) by (field; lra).
  apply Rmult_le_compat_l; [lra|]. generalize (Rle_0_sqr (s * a - b)). unfold Rsqr. lra.
Qed.

Lemma tanh_half : forall d, (exp d - 1) / (exp d + 1) = tanh (d / 2).
Proof.
  intros d. unfold tanh, sinh, cosh. assert (E : exp d = exp (d / 2) * exp (d / 2)) by (rewrite <- exp_plus; f_equal; field).
  rewrite E, exp_Ropp. assert (P := exp_pos (d / 2)).
  assert (P2 : 0 < exp (d / 2) * exp (d / 2)) by (apply Rmult_lt_0_compat; exact P). field. repeat split; lra.
Qed.

Lemma tanh_half_le : forall d, 0 <= d -> (exp d - 1) / (exp d + 1) <= d / 2.
Proof.
  intros d Hd. assert (P := exp_pos d).
  apply Rmult_le_reg_r with (2 * (exp d + 1)); [lra|].
  replace ((exp d - 1) / (exp d + 1) * (2 * (exp d + 1))) with (2 * (exp d - 1)) by (field; lra).
  replace (d / 2 * (2 * (exp d + 1))) with (d * (exp d + 1)) by field.
  destruct (Req_dec d 0) as [->|Hn]; [rewrite exp_0; lra|].
  set (g := fun x => x * (exp x + 1) - 2 * (exp x - 1)).
  destruct (MVT_cor2 g (fun x => (1 * (exp x + 1) + x * (exp x + 0)) - (0 * (exp x - 1) + 2 * (exp x - 0))) 0 d ltac:(lra)) as [c [Hc1 Hc2]].
  { intros c Hc. unfold g. apply derivable_pt_lim_minus.
    - apply (derivable_pt_lim_mult (fun x => x) (fun x => exp x + 1)). apply derivable_pt_lim_id.
      apply derivable_pt_lim_plus. apply derivable_pt_lim_exp. apply derivable_pt_lim_const.
    - apply (derivable_pt_lim_mult (fun _ => 2) (fun x => exp x - 1)). apply derivable_pt_lim_const.
      apply derivable_pt_lim_minus. apply derivable_pt_lim_exp. apply derivable_pt_lim_const. }
  unfold g in Hc1. rewrite exp_0 in Hc1.
  assert (0 <= 1 + (c - 1) * exp c).
  { assert (E := exp_ineq1_le (- c)). rewrite exp_Ropp in E. assert (Pc := exp_pos c).
    assert (M : exp c * (1 + - c) <= exp c * / exp c) by (apply Rmult_le_compat_l; lra). rewrite Rinv_r in M by lra. lra. }
  assert (0 <= (1 + (c - 1) * exp c) * (d - 0)) by (apply Rmult_le_pos; lra). lra.
Qed.

Theorem softmax_sup_norm : forall z z' n d i, (i < n)%nat -> (forall j, (j < n)%nat -> Rabs (z' j - z j) <= d) ->
  Rabs (softmax z' n i - softmax z n i) <= tanh (d / 2) /\ tanh (d / 2) <= d / 2.
Proof.
  assert (One : forall z z' n d i, (i < n)%nat -> (forall j, (j < n)%nat -> Rabs (z' j - z j) <= d) ->
    softmax z' n i - softmax z n i <= (exp d - 1) / (exp d + 1)).
  { intros z z' n d i Hi Hd. unfold softmax.
    rewrite (sum_without n i (fun j => exp (z' j)) Hi), (sum_without n i (fun j => exp (z j)) Hi).
    assert (Hd0 : 0 <= d) by (generalize (Hd i Hi) (Rabs_pos (z' i - z i)); lra).
    apply fractions; try apply exp_pos.
    - rewrite <- exp_0. apply exp_monotone; lra.
    - apply sum_nonneg. intros j Hj. unfold without. destruct Nat.eq_dec; [lra | left; apply exp_pos].
    - apply sum_nonneg. intros j Hj. unfold without. destruct Nat.eq_dec; [lra | left; apply exp_pos].
    - rewrite <- exp_plus. apply exp_monotone. generalize (Rle_abs (z' i - z i)) (Hd i Hi). lra.
    - rewrite <- sum_scal. apply sum_le. intros j Hj. unfold without. destruct Nat.eq_dec; [lra|].
      rewrite <- exp_plus. apply exp_monotone. generalize (Rle_abs (- (z' j - z j))) (Hd j Hj). rewrite Rabs_Ropp. lra. }
  intros z z' n d i Hi Hd. assert (Hd0 : 0 <= d) by (generalize (Hd i Hi) (Rabs_pos (z' i - z i)); lra).
  rewrite <- tanh_half. split; [|apply tanh_half_le; exact Hd0].
  apply Rabs_le. split.
  - assert (H := One z' z n d i Hi). assert (G : forall j, (j < n)%nat -> Rabs (z j - z' j) <= d) by (intros; rewrite Rabs_minus_sym; auto).
    specialize (H G). lra.
  - apply One; assumption.
Qed.

(** A test on probabilities is never stronger than the test on logits. *)
Theorem probability_gap : forall z n i j, (i < n)%nat -> (j < n)%nat -> z j <= z i -> softmax z n i - softmax z n j <= (z i - z j) / 2.
Proof.
  intros z n i j Hi Hj H. destruct (Nat.eq_dec i j) as [->|Hij]; [lra|].
  unfold softmax. set (d := z i - z j). assert (Hd : 0 <= d) by (unfold d; lra).
  assert (Ei := exp_pos (z i)). assert (Ej := exp_pos (z j)).
  assert (D := sum_without n i (fun k => exp (z k)) Hi). simpl in D.
  assert (D2 := sum_without n j (without i (fun k => exp (z k))) Hj). unfold without at 2 in D2. destruct (Nat.eq_dec j i); [lia|].
  assert (R : 0 <= sum n (without j (without i (fun k => exp (z k))))).
  { apply sum_nonneg. intros k Hk. unfold without. destruct Nat.eq_dec; [lra|]. destruct Nat.eq_dec; [lra | left; apply exp_pos]. }
  set (S := sum n (fun k => exp (z k))) in *.
  assert (HS : exp (z i) + exp (z j) <= S) by lra.
  assert (E : exp (z i) = exp d * exp (z j)) by (rewrite <- exp_plus; unfold d; f_equal; ring).
  replace (exp (z i) / S - exp (z j) / S) with ((exp (z i) - exp (z j)) / S) by (field; lra).
  apply Rle_trans with (2 := tanh_half_le d Hd).
  apply Rle_trans with ((exp (z i) - exp (z j)) / (exp (z i) + exp (z j))).
  - apply Rmult_le_compat_l. { generalize (exp_monotone _ _ H). lra. } apply Rinv_le_contravar; lra.
  - right. rewrite E. assert (P := exp_pos d). field. split; [lra|].
    assert (0 < exp d * exp (z j)) by (apply Rmult_lt_0_compat; assumption). lra.
Qed.
