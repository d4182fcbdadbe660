(** The zonotope method: radii by the interval rule or by backward substitution, gaps by backward substitution; theorems 16 to 18. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz Wf_nat.
From Flocq Require Import Core.
From PrecisionKit Require Import Model Rounding Dot Relax Softmax Margin Network Corollaries.
Import ListNotations.
Open Scope R_scope.

Definition at_ (k : nat) (s : R) (j : nat) : R := if Nat.eq_dec j k then s else 0.

(** The lines that a node's operator and its local error admit, with z the centre and e the radii of the operands. *)
Definition admits (a : arithmetic) (net : nat -> node) (z e : nat -> R) (lower upper : nat -> nat -> R) (below above : nat -> R) (i : nat) : Prop :=
  match net i with
  | Input _ => (forall j, lower i j = 0 /\ upper i j = 0) /\ 0 <= below i /\ 0 <= above i
  | Dot ks w _ => (forall j, let c := if in_dec Nat.eq_dec j ks then w j else 0 in lower i j = c /\ upper i j = c)
      /\ local_error a net z e i <= below i /\ local_error a net z e i <= above i
  | Sum k l => (forall j, lower i j = at_ k 1 j + at_ l 1 j /\ upper i j = at_ k 1 j + at_ l 1 j)
      /\ local_error a net z e i <= below i /\ local_error a net z e i <= above i
  | Relu k => exists s t, (forall j, lower i j = at_ k t j /\ upper i j = at_ k s j) /\ 0 <= s <= 1 /\ 0 <= below i
      /\ Rmax (relu (z k - e k) - relu (z k) + s * e k) (relu (z k + e k) - relu (z k) - s * e k) <= above i
      /\ (t = 1 /\ 0 < z k \/ t = 0 /\ z k <= 0 \/ t = 1 /\ e k <= z k \/ t = 0 /\ z k <= - e k)
  | Max k l => exists p q, (p = k /\ q = l \/ p = l /\ q = k) /\ z q <= z p /\ (forall j, lower i j = at_ p 1 j /\ upper i j = at_ p 1 j)
      /\ 0 <= below i /\ 0 <= above i /\ (z q + e q) - (z p - e p) <= above i
  end.

Section Zonotope.

Variable a : arithmetic.
Hypothesis storage_pos : (0 < bits (storage a))%Z.
Hypothesis accumulate_pos : (0 < bits (accumulate a))%Z.
Hypothesis internal_pos : (0 < bits (internal a))%Z.
Hypothesis roundoff_nonneg : 0 <= product_roundoff a.
Hypothesis underflow_nonneg : 0 <= product_underflow a.
Variable choice : Z -> bool.
Variable net : nat -> node.
Variables z x e : nat -> R.
Variable n : nat.
Hypothesis net_ordered : forall i, (i < n)%nat -> ordered a net i.
Hypothesis z_exact : forall i, (i < n)%nat -> z i = exactly net z i.
Hypothesis x_runs : forall i, (i < n)%nat -> runs a choice net x i.
Variables lower upper : nat -> nat -> R.
Variables below above : nat -> R.
Hypothesis lines_admitted : forall i, (i < n)%nat -> admits a net z e lower upper below above i.

Notation d := (fun j => x j - z j).
Notation pulled := (pull lower upper below above).

(** By the interval rule, or by what substitution gives for the coordinate and its negative. *)
Definition settled (i : nat) : Prop :=
  carried_by net z e i + local_error a net z e i <= e i \/ (pulled (S i) (at_ i 1) <= e i /\ pulled (S i) (at_ i (-1)) <= e i).

Hypothesis all_settled : forall i, (i < n)%nat -> settled i.

Lemma local_of_run : forall i, (i < n)%nat -> (forall j, (j < i)%nat -> Rabs (x j - z j) <= e j) ->
  Rabs (x i - exactly net x i) <= local_error a net z e i.
Proof. intros i Hi He. apply (node_local a storage_pos accumulate_pos internal_pos roundoff_nonneg underflow_nonneg choice net z x e n); assumption. Qed.

Lemma sum_at_ : forall i k s, (k < i)%nat -> sum i (fun j => at_ k s j * d j) = s * d k.
Proof. intros i k s Hk. unfold at_. apply sum_at. exact Hk. Qed.

Lemma lines_hold : forall i, (i < n)%nat -> (forall j, (j < i)%nat -> Rabs (x j - z j) <= e j) ->
  sum i (fun j => lower i j * d j) - below i <= d i <= sum i (fun j => upper i j * d j) + above i.
Proof.
  intros i Hi He. assert (O := net_ordered i Hi). assert (L := local_of_run i Hi He). assert (A := lines_admitted i Hi).
  assert (Z := z_exact i Hi). assert (X := x_runs i Hi).
  unfold ordered in O. unfold admits in A. unfold exactly in *. unfold runs in X.
  destruct (net i) as [v|ks w bias|k|k l|k l] eqn:Hnet.
  - destruct A as [A [B1 B2]].
    rewrite (sum_ext i (fun j => lower i j * d j) (fun _ => 0 * 0)) by (intros j Hj; rewrite (proj1 (A j)); ring).
    rewrite (sum_ext i (fun j => upper i j * d j) (fun _ => 0 * 0)) by (intros j Hj; rewrite (proj2 (A j)); ring).
    rewrite sum_scal. rewrite X, Z. lra.
  - destruct A as [A [B1 B2]]. destruct O as [On [Oks _]].
    assert (E : sum i (fun j => (if in_dec Nat.eq_dec j ks then w j else 0) * d j) = list_sum (map (fun k => w k * x k) ks) - list_sum (map (fun k => w k * z k) ks)).
    { rewrite (sum_ext i _ (fun j => if in_dec Nat.eq_dec j ks then w j * (x j - z j) else 0)) by (intros j Hj; destruct in_dec; ring).
      rewrite (sum_list i ks (fun j => w j * (x j - z j)) On Oks), list_sum_minus. f_equal. apply map_ext. intros; ring. }
    rewrite (sum_ext i (fun j => lower i j * d j) (fun j => (if in_dec Nat.eq_dec j ks then w j else 0) * d j)) by (intros j Hj; rewrite (proj1 (A j)); reflexivity).
    rewrite (sum_ext i (fun j => upper i j * d j) (fun j => (if in_dec Nat.eq_dec j ks then w j else 0) * d j)) by (intros j Hj; rewrite (proj2 (A j)); reflexivity).
    rewrite E. apply Rabs_le_inv in L. lra.
  - destruct A as [s [t [A [Hs [B1 [B2 Ht]]]]]].
    rewrite (sum_ext i (fun j => lower i j * d j) (fun j => at_ k t j * d j)) by (intros j Hj; rewrite (proj1 (A j)); reflexivity).
    rewrite (sum_ext i (fun j => upper i j * d j) (fun j => at_ k s j * d j)) by (intros j Hj; rewrite (proj2 (A j)); reflexivity).
    rewrite !sum_at_ by exact O. rewrite X, Z.
    assert (Hk := He k O). apply Rabs_le_inv in Hk.
    replace (x k) with (z k + (x k - z k)) at 3 4 by ring. set (dk := x k - z k) in *.
    replace (x k) with (z k + dk) by (unfold dk; ring).
    assert (U := relu_upper_line (z k) (z k - e k) (z k + e k) s dk Hs ltac:(lra)).
    replace (z k - e k - z k) with (- e k) in U by ring. replace (z k + e k - z k) with (e k) in U by ring.
    replace (relu (z k - e k) - relu (z k) - s * - e k) with (relu (z k - e k) - relu (z k) + s * e k) in U by ring.
    destruct (relu_lower_line (z k) dk) as [W1 W2]. split; [|lra].
    destruct Ht as [[-> H]|[[-> H]|[[-> H]|[-> H]]]].
    + specialize (W1 H). lra.
    + specialize (W2 H). lra.
    + destruct (relu_certain (z k) dk (z k - e k) (z k + e k) ltac:(lra) ltac:(lra)) as [C _]. specialize (C ltac:(lra)). lra.
    + destruct (relu_certain (z k) dk (z k - e k) (z k + e k) ltac:(lra) ltac:(lra)) as [_ C]. specialize (C ltac:(lra)). lra.
  - destruct A as [A [B1 B2]]. destruct O as [Ok Ol].
    assert (E : sum i (fun j => (at_ k 1 j + at_ l 1 j) * d j) = d k + d l).
    { rewrite (sum_ext i _ (fun j => at_ k 1 j * d j + at_ l 1 j * d j)) by (intros; ring). rewrite sum_plus, !sum_at_ by assumption. ring. }
    rewrite (sum_ext i (fun j => lower i j * d j) (fun j => (at_ k 1 j + at_ l 1 j) * d j)) by (intros j Hj; rewrite (proj1 (A j)); reflexivity).
    rewrite (sum_ext i (fun j => upper i j * d j) (fun j => (at_ k 1 j + at_ l 1 j) * d j)) by (intros j Hj; rewrite (proj2 (A j)); reflexivity).
    rewrite E. apply Rabs_le_inv in L. lra.
  - destruct A as [p [q [Hpq [Hz [A [B1 [B2 B3]]]]]]]. destruct O as [Ok Ol].
    assert (Op : (p < i)%nat /\ (q < i)%nat) by (destruct Hpq as [[-> ->]|[-> ->]]; auto). destruct Op as [Op Oq].
    assert (Xpq : x i = Rmax (x p) (x q)) by (rewrite X; destruct Hpq as [[-> ->]|[-> ->]]; [reflexivity | apply Rmax_comm]).
    assert (Zpq : z i = z p).
    { rewrite Z. destruct Hpq as [[-> ->]|[-> ->]]; [apply Rmax_left; lra | apply Rmax_right; lra]. }
    rewrite (sum_ext i (fun j => lower i j * d j) (fun j => at_ p 1 j * d j)) by (intros j Hj; rewrite (proj1 (A j)); reflexivity).
    rewrite (sum_ext i (fun j => upper i j * d j) (fun j => at_ p 1 j * d j)) by (intros j Hj; rewrite (proj2 (A j)); reflexivity).
    rewrite sum_at_ by exact Op. rewrite Xpq, Zpq.
    assert (Hp := Rabs_le_inv _ _ (He p Op)). assert (Hq := Rabs_le_inv _ _ (He q Oq)).
    unfold Rmax. destruct Rle_dec; lra.
Qed.

Theorem settled_enclosures : forall i, (i < n)%nat -> Rabs (x i - z i) <= e i.
Proof.
  induction i as [i IH] using lt_wf_ind. intros Hi.
  assert (He : forall j, (j < i)%nat -> Rabs (x j - z j) <= e j) by (intros; apply IH; lia).
  destruct (all_settled i Hi) as [S|[S1 S2]].
  - assert (L := local_of_run i Hi He).
    assert (C : Rabs (exactly net x i - exactly net z i) <= carried_by net z e i).
    { exact (node_carried a net z x e n net_ordered i Hi He). }
    replace (x i - z i) with ((x i - exactly net x i) + (exactly net x i - exactly net z i)) by (rewrite <- (z_exact i Hi); ring).
    eapply Rle_trans. apply Rabs_triang. lra.
  - assert (Lines : forall k, (k < S i)%nat -> sum k (fun j => lower k j * d j) - below k <= d k <= sum k (fun j => upper k j * d j) + above k).
    { intros k Hk. apply lines_hold; [lia|]. intros j Hj. apply He. lia. }
    assert (P1 := substitution lower upper below above d (S i) Lines (at_ i 1)).
    assert (P2 := substitution lower upper below above d (S i) Lines (at_ i (-1))).
    rewrite sum_at_ in P1 by lia. rewrite sum_at_ in P2 by lia. apply Rabs_le. lra.
Qed.

Theorem zonotope_certificate : forall (logit : nat -> nat) classes c,
  (c < classes)%nat -> (forall j, (j < classes)%nat -> (logit j < n)%nat) ->
  let minus_gap j k := (if Nat.eq_dec k (logit j) then 1 else 0) - (if Nat.eq_dec k (logit c) then 1 else 0) in
  (forall j, (j < c)%nat -> z (logit c) - z (logit j) > pulled n (minus_gap j)) ->
  (forall j, (c < j < classes)%nat -> z (logit c) - z (logit j) >= pulled n (minus_gap j)) ->
  argmax (fun j => x (logit j)) classes = c.
Proof.
  intros logit classes c Hc Hl minus_gap Hb Ha.
  apply (substituted_certificate lower upper below above n z x logit classes c); try assumption.
  intros i Hi. apply lines_hold; [exact Hi|]. intros j Hj. apply settled_enclosures. lia.
Qed.

End Zonotope.
