(** What random rounding does to a functional of a network: theorem 20 of bounds.md. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From PrecisionKit Require Import Model Softmax Azuma Network.
Open Scope R_scope.

Lemma sum_swap : forall n m (f : nat -> nat -> R), sum n (fun i => sum m (fun k => f i k)) = sum m (fun k => sum n (fun i => f i k)).
Proof.
  induction n as [|n IH]; intros m f; simpl.
  - rewrite (sum_ext m _ (fun _ => 0 * 0)) by (intros; ring). rewrite sum_scal. ring.
  - rewrite IH, <- sum_plus. reflexivity.
Qed.

Definition owned (owner : nat -> nat) (i k : nat) (v : R) : R := if Nat.eq_dec (owner k) i then v else 0.

Lemma sum_owner : forall n owner k (f : nat -> R), (owner k < n)%nat -> sum n (fun i => owned owner i k (f i)) = f (owner k).
Proof.
  intros n owner k f H. rewrite (sum_without n (owner k) _ H). unfold owned at 1. destruct Nat.eq_dec; [|lia].
  rewrite (sum_ext n _ (fun _ => 0 * 0)). { rewrite sum_scal. ring. }
  intros j Hj. unfold without, owned. destruct Nat.eq_dec; [ring|]. destruct Nat.eq_dec; [congruence | ring].
Qed.

Lemma squares_of_sum : forall m r, (forall k, 0 <= r k) -> sum m (fun k => r k * r k) <= sum m r * sum m r.
Proof.
  induction m as [|m IH]; intros r Hr; simpl; [lra|]. specialize (IH r Hr).
  assert (P : 0 <= sum m r) by (apply sum_nonneg; auto). assert (0 <= sum m r * r m) by (apply Rmult_le_pos; auto). lra.
Qed.

Section Pull.

Variables lower upper : nat -> nat -> R.
Variables below above : nat -> R.

(** The functional on coordinate i when it is reached: what its rounding errors are multiplied with. *)
Fixpoint coefficient (n : nat) (g : nat -> R) (i : nat) : R :=
  match n with
  | O => 0
  | S m => if Nat.eq_dec i m then g m else coefficient m (through lower upper m g) i
  end.

(** Signed local errors keep their signs; the rest is paid for. *)
Theorem pull_signed : forall n d rho,
  (forall i, (i < n)%nat -> sum i (fun j => lower i j * d j) - below i <= d i - rho i <= sum i (fun j => upper i j * d j) + above i) ->
  forall g, sum n (fun j => g j * d j) <= sum n (fun i => coefficient n g i * rho i) + pull lower upper below above n g.
Proof.
  induction n as [|i IH]; intros d rho Hl g; [simpl; lra|].
  specialize (IH d rho (fun j H => Hl j ltac:(lia)) (through lower upper i g)).
  change (sum (S i) (fun j => g j * d j)) with (sum i (fun j => g j * d j) + g i * d i).
  change (sum (S i) (fun k => coefficient (S i) g k * rho k)) with (sum i (fun k => coefficient (S i) g k * rho k) + coefficient (S i) g i * rho i).
  assert (C : coefficient (S i) g i = g i) by (simpl; destruct Nat.eq_dec; [reflexivity | lia]). rewrite C.
  rewrite (sum_ext i (fun k => coefficient (S i) g k * rho k) (fun k => coefficient i (through lower upper i g) k * rho k)).
  2: { intros k Hk. simpl. destruct Nat.eq_dec; [lia | reflexivity]. }
  cbn [pull]. destruct (Hl i ltac:(lia)) as [L U]. unfold cost.
  assert (E : sum i (fun j => through lower upper i g j * d j)
    = sum i (fun j => g j * d j) + (Rmax 0 (g i) * sum i (fun j => upper i j * d j) - Rmax 0 (- g i) * sum i (fun j => lower i j * d j))).
  { unfold through. rewrite (sum_ext i _ (fun j => g j * d j + (Rmax 0 (g i) * (upper i j * d j) + - Rmax 0 (- g i) * (lower i j * d j)))) by (intros; ring).
    rewrite sum_plus, sum_plus, !sum_scal. ring. }
  rewrite E in IH.
  assert (P := Rmax_l 0 (g i)). assert (Q := Rmax_l 0 (- g i)).
  assert (G : g i = Rmax 0 (g i) - Rmax 0 (- g i)) by (unfold Rmax; destruct Rle_dec; destruct Rle_dec; lra).
  assert (A := Rmult_le_compat_l _ _ _ P U). assert (B := Rmult_le_compat_l _ _ _ Q L).
  assert (F : g i * d i = g i * rho i + (Rmax 0 (g i) * (d i - rho i) - Rmax 0 (- g i) * (d i - rho i))).
  { replace (g i * d i) with (g i * rho i + g i * (d i - rho i)) by ring. rewrite G at 2. ring. }
  rewrite F. lra.
Qed.

End Pull.

(** Additions that err by at most d each, and products whose errors sum to at most v: their squares. *)
Theorem spread_of_sums : forall n m d v a b, (forall k, (k < n)%nat -> 0 <= a k <= d) -> (forall k, 0 <= b k) -> sum m b <= v ->
  sum n (fun k => a k * a k) + sum m (fun k => b k * b k) <= INR n * (d * d) + v * v.
Proof.
  intros n m d v a b Ha Hb Hv. apply Rplus_le_compat.
  - clear - Ha. induction n as [|n IH]; [simpl; lra|]. rewrite S_INR. cbn [sum].
    specialize (IH (fun k H => Ha k ltac:(lia))). destruct (Ha n ltac:(lia)) as [A1 A2].
    assert (A := Rmult_le_compat (a n) d (a n) d A1 A1 A2 A2). lra.
  - eapply Rle_trans. apply squares_of_sum; exact Hb.
    assert (P : 0 <= sum m b) by (apply sum_nonneg; auto). apply Rmult_le_compat; assumption.
Qed.

(** The k-th rounding error of a run, in the order in which roundings are made, belongs to coordinate [owner k]. *)
Theorem probable_functional : forall outcomes weight, (forall w, 0 <= weight w) -> sum outcomes weight = 1 ->
  forall lower upper below above n m (X : nat -> nat -> R) owner r (held : nat -> (nat -> R) -> bool) (d : nat -> nat -> R) g t,
  mean_zero outcomes weight m X -> (forall k, of_past k (held k)) -> (forall k, (k < m)%nat -> (owner k < n)%nat) ->
  (forall k w, (k < m)%nat -> held k (fun j => X j w) = true -> Rabs (X k w) <= r k) -> (forall k, 0 <= r k) -> 0 <= t ->
  let rho i w := sum m (fun k => owned owner i k (X k w)) in
  forall radius, (forall i, (i < n)%nat -> sum m (fun k => owned owner i k (r k * r k)) <= radius i * radius i) ->
  (forall w, (forall k, (k < m)%nat -> held k (fun j => X j w) = true) -> forall i, (i < n)%nat ->
     sum i (fun j => lower i j * d j w) - below i <= d i w - rho i w <= sum i (fun j => upper i j * d j w) + above i) ->
  let c i := coefficient lower upper n g i in
  let level := pull lower upper below above n g + t * sqrt (sum n (fun i => (c i * radius i) * (c i * radius i))) in
  forall dec : forall w, {(forall k, (k < m)%nat -> held k (fun j => X j w) = true) /\ sum n (fun j => g j * d j w) > level} + {~ _},
  probability outcomes weight (fun w => (forall k, (k < m)%nat -> held k (fun j => X j w) = true) /\ sum n (fun j => g j * d j w) > level) dec
    <= exp (- (t * t) / 2).
Proof.
  intros outcomes weight Hw Ht lower upper below above n m X owner r held d g t HX Hheld Hown Hr Hr0 Ht0 rho radius Hrad Hl c level dec.
  set (cc := fun k => c (owner k)).
  assert (Var : sum m (fun k => cc k * r k * (cc k * r k)) <= sum n (fun i => c i * radius i * (c i * radius i))).
  { apply Rle_trans with (sum n (fun i => c i * c i * sum m (fun k => owned owner i k (r k * r k)))).
    - right. rewrite (sum_ext n (fun i => c i * c i * sum m (fun k => owned owner i k (r k * r k)))
        (fun i => sum m (fun k => owned owner i k (c i * c i * (r k * r k))))).
      + rewrite sum_swap. apply sum_ext. intros k Hk. rewrite (sum_owner n owner k (fun i => c i * c i * (r k * r k))) by auto. unfold cc. ring.
      + intros i Hi. rewrite <- sum_scal. apply sum_ext. intros k Hk. unfold owned. destruct Nat.eq_dec; ring.
    - apply sum_le. intros i Hi. assert (M := Rmult_le_compat_l _ _ _ (Rle_0_sqr (c i)) (Hrad i Hi)). unfold Rsqr in M. lra. }
  set (s := t * sqrt (sum m (fun k => cc k * r k * (cc k * r k)))).
  assert (Hs : s <= t * sqrt (sum n (fun i => c i * radius i * (c i * radius i)))).
  { unfold s. apply Rmult_le_compat_l; [exact Ht0|]. apply sqrt_le_1; try exact Var.
    - apply sum_nonneg. intros; apply Rle_0_sqr.
    - apply sum_nonneg. intros; apply Rle_0_sqr. }
  assert (dec2 : forall w, {(forall k, (k < m)%nat -> held k (fun j => X j w) = true) /\ sum m (fun k => cc k * X k w) > s} +
    {~ ((forall k, (k < m)%nat -> held k (fun j => X j w) = true) /\ sum m (fun k => cc k * X k w) > s)}).
  { intros w. assert (D1 : {forall k, (k < m)%nat -> held k (fun j => X j w) = true} + {~ (forall k, (k < m)%nat -> held k (fun j => X j w) = true)}).
    { clear -m. induction m as [|m' IH].
      - left. intros; lia.
      - destruct IH as [Y|N].
        + destruct (held m' (fun j => X j w)) eqn:E.
          * left. intros k Hk. destruct (Nat.eq_dec k m') as [->|]; [exact E | apply Y; lia].
          * right. intros F. rewrite F in E by lia. discriminate E.
        + right. intros F. apply N. intros k Hk. apply F. lia. }
    destruct D1 as [Y|N]; [|right; intros [H _]; exact (N H)].
    destruct (Rgt_dec (sum m (fun k => cc k * X k w)) s) as [G|G]; [left; split; assumption | right; intros [_ H]; exact (G H)]. }
  assert (A := azuma outcomes weight Hw Ht m X cc r t held HX Hheld Hr Hr0 Ht0 dec2).
  eapply Rle_trans with (2 := A). apply expectation_le; [exact Hw|]. intros w. unfold indicator.
  destruct (dec w) as [[H1 H2]|H]; destruct (dec2 w) as [K|K]; try lra.
  exfalso. apply K. split; [exact H1|].
  assert (P := pull_signed lower upper below above n (fun j => d j w) (fun i => rho i w) (Hl w H1) g). cbv beta in P. fold (c) in P.
  assert (E : sum n (fun i => coefficient lower upper n g i * rho i w) = sum m (fun k => cc k * X k w)).
  { unfold rho. rewrite (sum_ext n _ (fun i => sum m (fun k => owned owner i k (c i * X k w)))).
    - rewrite sum_swap. apply sum_ext. intros k Hk. rewrite (sum_owner n owner k (fun i => c i * X k w)) by auto. reflexivity.
    - intros i Hi. rewrite <- sum_scal. apply sum_ext. intros k Hk. unfold owned, c. destruct Nat.eq_dec; ring. }
  rewrite E in P. unfold level in H2. lra.
Qed.
