(** Dot products in any order, without a term of second order: n u S (Jeannerod and Rump); [outward] relies on it. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From Flocq Require Import Core.
From PrecisionKit Require Import Model Rounding Dot.
Import ListNotations.
Open Scope R_scope.

Lemma node_sharp : forall u n1 n2 S1 S2 z1 z2 D,
  0 < u <= / 2 -> 1 <= n1 -> (n2 = 1 \/ 2 <= n2) -> (n1 = 1 \/ 2 <= n1) -> 1 <= n2 -> 0 <= S1 -> 0 <= S2 ->
  Rabs z1 <= (1 + n1 * u) * S1 -> Rabs z2 <= (1 + n2 * u) * S2 ->
  D <= Rabs z1 -> D <= Rabs z2 -> (1 + u) * D <= u * Rabs (z1 + z2) ->
  D <= u * (n2 * S1 + n1 * S2).
Proof.
  intros u n1 n2 S1 S2 z1 z2 D Hu Hn1 H2 H1 Hn2 HS1 HS2 Hz1 Hz2 HD1 HD2 HD.
  assert (HuS1 := Rmult_le_pos u S1 ltac:(lra) HS1). assert (HuS2 := Rmult_le_pos u S2 ltac:(lra) HS2).
  assert (Side : forall n m S T, 1 <= n -> (m = 1 \/ 2 <= m) -> 0 <= S -> 0 <= T -> T <= u * S -> (1 + m * u) * T <= u * (m * S + n * T)).
  { intros n m S T Hn Hm HS HT H. assert (HuT : 0 <= u * T) by (apply Rmult_le_pos; lra).
    assert (HuS : 0 <= u * S) by (apply Rmult_le_pos; lra).
    assert (A : 1 * (u * T) <= n * (u * T)) by (apply Rmult_le_compat_r; lra).
    destruct Hm as [->|Hm]; [lra|].
    assert (B : u * T <= u * (u * S)) by (apply Rmult_le_compat_l; lra).
    assert (C : u * (u * S) <= / 2 * (u * S)) by (apply Rmult_le_compat_r; lra).
    assert (E : m * (u * T) <= m * (/ 2 * (u * S))) by (apply Rmult_le_compat_l; lra).
    assert (G : 2 * (u * S) <= m * (u * S)) by (apply Rmult_le_compat_r; lra).
    lra. }
  destruct (Rle_lt_dec S2 (u * S1)) as [H|H].
  - assert (A := Side n1 n2 S1 S2 Hn1 H2 HS1 HS2 H). lra.
  - destruct (Rle_lt_dec S1 (u * S2)) as [H'|H'].
    + assert (A := Side n2 n1 S2 S1 Hn2 H1 HS2 HS1 H'). lra.
    + assert (T := Rabs_triang z1 z2).
      assert (A : (n1 - 1) * (u * S1) <= (n1 - 1) * S2) by (apply Rmult_le_compat_l; lra).
      assert (B : (n2 - 1) * (u * S2) <= (n2 - 1) * S1) by (apply Rmult_le_compat_l; lra).
      assert (C1 : 1 * S1 <= n2 * S1) by (apply Rmult_le_compat_r; lra).
      assert (C2 : 1 * S2 <= n1 * S2) by (apply Rmult_le_compat_r; lra).
      set (Q := n2 * S1 + n1 * S2) in *.
      assert (E : Rabs (z1 + z2) <= Q + u * Q).
      { assert (u * (S1 + S2) <= u * Q) by (apply Rmult_le_compat_l; unfold Q; lra). unfold Q in *. lra. }
      assert (G : u * Rabs (z1 + z2) <= u * (Q + u * Q)) by (apply Rmult_le_compat_l; lra).
      apply Rmult_le_reg_l with (1 + u); [lra|]. lra.
Qed.

Lemma node_sharp_fused : forall u n1 S1 z1 p D,
  0 < u <= / 2 -> 1 <= n1 -> 0 <= S1 -> Rabs z1 <= (1 + n1 * u) * S1 ->
  D <= Rabs p -> (1 + u) * D <= u * Rabs (p + z1) -> D <= u * (S1 + (n1 + 1) * Rabs p).
Proof.
  intros u n1 S1 z1 p D Hu Hn1 HS1 Hz1 HDp HD. assert (Hp := Rabs_pos p).
  assert (HuS1 := Rmult_le_pos u S1 ltac:(lra) HS1). assert (Hup := Rmult_le_pos u (Rabs p) ltac:(lra) Hp).
  destruct (Rle_lt_dec (Rabs p) (u * S1)) as [H|H].
  - assert (B : 0 <= (n1 + 1) * (u * Rabs p)) by (apply Rmult_le_pos; lra). lra.
  - assert (T := Rabs_triang p z1).
    assert (A : n1 * (u * S1) <= n1 * Rabs p) by (apply Rmult_le_compat_l; lra).
    set (Q := S1 + (n1 + 1) * Rabs p).
    assert (E : u * Rabs (p + z1) <= u * Q) by (apply Rmult_le_compat_l; unfold Q; lra).
    assert (HQ : 0 <= u * Q).
    { apply Rmult_le_pos; [lra|]. unfold Q. assert (0 <= (n1 + 1) * Rabs p) by (apply Rmult_le_pos; lra). lra. }
    apply Rmult_le_reg_l with (1 + u); [lra|]. assert (u * (u * Q) >= 0) by (apply Rle_ge, Rmult_le_pos; lra). lra.
Qed.

(** Terms and products, zeros included. *)
Fixpoint leaves (t : tree) : nat :=
  match t with Term _ | Prod _ => 1%nat | Add s t => (leaves s + leaves t)%nat | Fma _ t => S (leaves t) end.

Section Sharp.

Variable f : format.
Hypothesis bits_pos : (0 < bits f)%Z.
Variable choice : Z -> bool.
Variable p : nat -> R.
Notation u := (unit_roundoff f).
Notation rnd := (RN f choice).
Notation run := (Model.run (RN f choice) p).

(** Each product is off by what is lost below the normal range, at most [eta]; what is left is relative. *)
Definition kept (k : nat) : R := if Rlt_dec (Rabs (p k)) (smallest_normal f) then rnd (p k) else p k.
Definition kept_fused (k : nat) (t : tree) : R :=
  if Rlt_dec (Rabs (p k + run t)) (smallest_normal f) then rnd (p k + run t) - run t else p k.

Fixpoint perturbed (g : R -> R) (t : tree) : R :=
  match t with
  | Term b => g b
  | Prod k => g (kept k)
  | Add s t => perturbed g s + perturbed g t
  | Fma k t => g (kept_fused k t) + perturbed g t
  end.

Notation id := (fun v : R => v).

Lemma perturbed_abs : forall t, Rabs (perturbed id t) <= perturbed Rabs t.
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; simpl; try lra; eapply Rle_trans; try apply Rabs_triang; lra.
Qed.

Lemma perturbed_nonneg : forall t, 0 <= perturbed Rabs t.
Proof. intros. eapply Rle_trans with (2 := perturbed_abs t). apply Rabs_pos. Qed.

Lemma leaves_pos : forall t, (1 <= leaves t)%nat.
Proof. induction t; simpl; lia. Qed.

Lemma leaves_cases : forall t, INR (leaves t) = 1 \/ 2 <= INR (leaves t).
Proof.
  intros t. destruct (Nat.eq_dec (leaves t) 1) as [->|H]; [left; reflexivity|right].
  apply (le_INR 2). generalize (leaves_pos t). lia.
Qed.

Lemma sharp_perturbed : forall t, well f t -> Rabs (run t - perturbed id t) <= INR (leaves t) * u * perturbed Rabs t.
Proof.
  assert (Hu0 := unit_pos f). assert (Hu1 := unit_le_half f bits_pos).
  assert (Bound : forall t, Rabs (run t - perturbed id t) <= INR (leaves t) * u * perturbed Rabs t ->
    Rabs (run t) <= (1 + INR (leaves t) * u) * perturbed Rabs t).
  { intros t H. replace (run t) with (perturbed id t + (run t - perturbed id t)) by ring. eapply Rle_trans. apply Rabs_triang.
    generalize (perturbed_abs t). lra. }
  induction t as [b|k|s IHs t IHt|k t IHt]; intros Hwell.
  - cbn [perturbed Model.run]. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. simpl. rewrite Rmult_1_l. apply Rmult_le_pos; [lra|apply Rabs_pos].
  - simpl. rewrite Rmult_1_l. unfold kept. destruct Rlt_dec as [H|H].
    + unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply Rmult_le_pos; [lra|apply Rabs_pos].
    + eapply Rle_trans. apply normal_error; try assumption. lra. apply Rmult_le_compat_l; [lra|apply ufp_le].
  - destruct (well_add _ _ _ Hwell) as [Hws Hwt]. specialize (IHs Hws). specialize (IHt Hwt).
    simpl perturbed. simpl Model.run. simpl leaves. rewrite plus_INR.
    assert (Hs := run_number f bits_pos choice p s Hws). assert (Ht := run_number f bits_pos choice p t Hwt).
    assert (D1 := sum_error_left f bits_pos choice (run s) (run t) Ht).
    assert (D2 := sum_error_right f bits_pos choice (run s) (run t) Hs).
    assert (D3 : (1 + u) * Rabs (rnd (run s + run t) - (run s + run t)) <= u * Rabs (run s + run t)).
    { destruct (sharp_error f bits_pos choice (run s + run t)) as [H|[_ H]]; [exact H|].
      rewrite small_sum_exact by assumption. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0, Rmult_0_r. apply Rmult_le_pos; [lra|apply Rabs_pos]. }
    assert (N := node_sharp u _ _ _ _ _ _ _ (conj Hu0 Hu1) (INR_ge_1 _ (leaves_pos s)) (leaves_cases t) (leaves_cases s)
       (INR_ge_1 _ (leaves_pos t)) (perturbed_nonneg s) (perturbed_nonneg t) (Bound s IHs) (Bound t IHt) D1 D2 D3).
    replace (rnd (run s + run t) - (perturbed id s + perturbed id t))
      with ((rnd (run s + run t) - (run s + run t)) + ((run s - perturbed id s) + (run t - perturbed id t))) by ring.
    eapply Rle_trans. apply Rabs_triang. assert (T := Rabs_triang (run s - perturbed id s) (run t - perturbed id t)).
    lra.
  - assert (Hwt : well f t) by exact Hwell. specialize (IHt Hwt).
    cbn [perturbed Model.run]. change (leaves (Fma k t)) with (S (leaves t)). rewrite S_INR.
    assert (Ht := run_number f bits_pos choice p t Hwt).
    replace (rnd (p k + run t) - (kept_fused k t + perturbed id t))
      with ((rnd (p k + run t) - (kept_fused k t + run t)) + (run t - perturbed id t)) by ring.
    eapply Rle_trans. apply Rabs_triang. assert (HS := perturbed_nonneg t). assert (Hq := Rabs_pos (kept_fused k t)).
    assert (Hn := INR_ge_1 _ (leaves_pos t)).
    assert (P1 : 0 <= u * perturbed Rabs t) by (apply Rmult_le_pos; lra).
    assert (P2 : 0 <= (INR (leaves t) + 1) * u * Rabs (kept_fused k t)) by (apply Rmult_le_pos; [apply Rmult_le_pos|]; lra).
    unfold kept_fused in *. destruct Rlt_dec as [H|H].
    + replace (rnd (p k + run t) - (rnd (p k + run t) - run t + run t)) with 0 by ring. rewrite Rabs_R0. lra.
    + assert (D3 : (1 + u) * Rabs (rnd (p k + run t) - (p k + run t)) <= u * Rabs (p k + run t)).
      { destruct (sharp_error f bits_pos choice (p k + run t)) as [H3|[_ H3]]; [exact H3|]. lra. }
      assert (N := node_sharp_fused u _ _ _ _ _ (conj Hu0 Hu1) Hn HS (Bound t IHt) (sum_error_left f bits_pos choice (p k) (run t) Ht) D3).
      lra.
Qed.

Lemma perturbed_near : forall g t, (forall a b, Rabs (g a - g b) <= Rabs (a - b)) -> well f t ->
  Rabs (perturbed g t - over (fun k => g (p k)) g t) <= INR (leaves t) * eta f.
Proof.
  intros g t Hg. assert (He := eta_pos f).
  induction t as [b|k|s IHs t IHt|k t IHt]; intros Hwell; simpl perturbed; simpl over.
  - unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. simpl. lra.
  - eapply Rle_trans. apply Hg. unfold kept. simpl. destruct Rlt_dec as [H|H].
    + generalize (subnormal_error f bits_pos choice _ H). lra.
    + unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - destruct (well_add _ _ _ Hwell) as [Hws Hwt]. specialize (IHs Hws). specialize (IHt Hwt). simpl leaves. rewrite plus_INR.
    match goal with |- Rabs (?a + ?b - (?c + ?d)) <= _ => replace (a + b - (c + d)) with ((a - c) + (b - d)) by ring end.
    eapply Rle_trans. apply Rabs_triang. lra.
  - assert (Hwt : well f t) by exact Hwell. specialize (IHt Hwt). change (leaves (Fma k t)) with (S (leaves t)). rewrite S_INR.
    match goal with |- Rabs (?a + ?b - (?c + ?d)) <= _ => replace (a + b - (c + d)) with ((a - c) + (b - d)) by ring end.
    eapply Rle_trans. apply Rabs_triang.
    assert (G := Hg (kept_fused k t) (p k)).
    assert (Q : Rabs (kept_fused k t - p k) <= eta f); [|lra].
    unfold kept_fused. destruct Rlt_dec as [H|H].
    + replace (rnd (p k + run t) - run t - p k) with (rnd (p k + run t) - (p k + run t)) by ring. apply subnormal_error; assumption.
    + unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
Qed.

Theorem sharp_dot : forall t, well f t -> let n := INR (leaves t) in
  Rabs (run t - exact p t) <= n * u * over (fun k => Rabs (p k)) Rabs t + n * (1 + n * u) * eta f.
Proof.
  intros t Hwell n. assert (Hu0 := unit_pos f).
  assert (A := sharp_perturbed t Hwell). fold n in A.
  assert (B := perturbed_near id t (fun a b => Rle_refl _) Hwell). fold n in B.
  change (over (fun k => id (p k)) id t) with (exact p t) in B.
  assert (C := perturbed_near Rabs t abs_lipschitz Hwell). fold n in C.
  assert (D := Rle_abs (perturbed Rabs t - over (fun k => Rabs (p k)) Rabs t)).
  assert (Hn : 0 <= n * u) by (apply Rmult_le_pos; [apply pos_INR | lra]).
  assert (E : n * u * perturbed Rabs t <= n * u * (over (fun k => Rabs (p k)) Rabs t + n * eta f)) by (apply Rmult_le_compat_l; lra).
  replace (run t - exact p t) with ((run t - perturbed id t) + (perturbed id t - exact p t)) by ring.
  eapply Rle_trans. apply Rabs_triang. lra.
Qed.

End Sharp.

(** The factor of [outward.sum_of_products_up]: non-negative products, binary64. *)
Theorem sum_of_products_up : forall choice p t, well binary64 t ->
  (forall k, In k (prods t) -> 0 <= p k) -> (forall b, In b (terms t) -> 0 <= b) ->
  let n := INR (leaves t) in let u := unit_roundoff binary64 in n * u <= / 2 ->
  exact p t <= (Model.run (RN binary64 choice) p t + n * (2 * eta binary64)) * (1 + 2 * n * u).
Proof.
  intros choice p t Hwell Hp Hb n u Hn.
  assert (Hu : 0 < u) by apply unit_pos. assert (He := eta_pos binary64).
  assert (A := sharp_dot binary64 eq_refl choice p t Hwell). fold n u in A.
  assert (E : over (fun k => Rabs (p k)) Rabs t = exact p t).
  { unfold exact. apply over_ext; intros; apply Rabs_right, Rle_ge; auto. }
  rewrite E in A. apply Rabs_le_inv in A. destruct A as [A _].
  assert (Hx : 0 <= exact p t) by (rewrite <- E; apply over_nonneg; intros; apply Rabs_pos).
  assert (Hn0 : 0 <= n) by apply pos_INR. assert (Hnu : 0 <= n * u) by (apply Rmult_le_pos; lra).
  set (y := Model.run (RN binary64 choice) p t) in *. set (x := exact p t) in *. set (d := eta binary64) in *.
  assert (Hne : 0 <= n * d) by (apply Rmult_le_pos; lra).
  assert (K : n * (1 + n * u) * d <= n * d * 2).
  { assert (n * u * (n * d) <= / 2 * (n * d)) by (apply Rmult_le_compat_r; assumption). lra. }
  assert (L : x * (1 - n * u) <= y + n * (2 * d)) by lra.
  apply Rle_trans with (x * (1 - n * u) * (1 + 2 * (n * u))).
  - set (a := n * u) in *. assert (0 <= x * (a * (1 - 2 * a))) by (apply Rmult_le_pos; [lra | apply Rmult_le_pos; lra]). lra.
  - replace (1 + 2 * n * u) with (1 + 2 * (n * u)) by ring. apply Rmult_le_compat_r; lra.
Qed.
