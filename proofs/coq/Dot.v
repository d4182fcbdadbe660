(** Dot products in any order: theorems 2 and 3 of bounds.md. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz Permutation.
From Flocq Require Import Core.
From PrecisionKit Require Import Model Rounding.
Import ListNotations.
Open Scope R_scope.

(** * Sums over the leaves of a tree *)

Lemma over_ext : forall f f' g g' t,
  (forall k, In k (prods t) -> f k = f' k) -> (forall b, In b (terms t) -> g b = g' b) -> over f g t = over f' g' t.
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; simpl; intros Hf Hg; auto.
  - rewrite IHs, IHt; auto; intros; try apply Hf; try apply Hg; apply in_or_app; auto.
  - rewrite IHt, Hf; auto.
Qed.

Lemma over_le : forall f f' g g' t,
  (forall k, In k (prods t) -> f k <= f' k) -> (forall b, In b (terms t) -> g b <= g' b) -> over f g t <= over f' g' t.
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; simpl; intros Hf Hg; auto.
  - apply Rplus_le_compat; [apply IHs|apply IHt]; auto; intros; try apply Hf; try apply Hg; apply in_or_app; auto.
  - apply Rplus_le_compat; auto.
Qed.

Lemma over_plus : forall f f' g g' t, over (fun k => f k + f' k) (fun b => g b + g' b) t = over f g t + over f' g' t.
Proof. induction t as [b|k|s IHs t IHt|k t IHt]; simpl; intros; try rewrite IHs; try rewrite IHt; lra. Qed.

Lemma over_scal : forall a f g t, over (fun k => a * f k) (fun b => a * g b) t = a * over f g t.
Proof. induction t as [b|k|s IHs t IHt|k t IHt]; simpl; intros; try rewrite IHs; try rewrite IHt; lra. Qed.

Lemma over_nonneg : forall f g t, (forall k, In k (prods t) -> 0 <= f k) -> (forall b, In b (terms t) -> 0 <= g b) -> 0 <= over f g t.
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; simpl; intros Hf Hg; auto.
  - apply Rplus_le_le_0_compat; [apply IHs|apply IHt]; auto; intros; try apply Hf; try apply Hg; apply in_or_app; auto.
  - apply Rplus_le_le_0_compat; auto.
Qed.

Lemma over_abs : forall f g t, Rabs (over f g t) <= over (fun k => Rabs (f k)) (fun b => Rabs (g b)) t.
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; simpl; try lra.
  - eapply Rle_trans. apply Rabs_triang. lra.
  - eapply Rle_trans. apply Rabs_triang. lra.
Qed.

Definition list_sum (l : list R) : R := fold_right Rplus 0 l.

Lemma list_sum_app : forall l l', list_sum (l ++ l') = list_sum l + list_sum l'.
Proof. induction l; simpl; intros; [|rewrite IHl]; lra. Qed.

Lemma list_sum_permutation : forall l l', Permutation l l' -> list_sum l = list_sum l'.
Proof. induction 1; simpl; lra. Qed.

Lemma over_lists : forall f g t, over f g t = list_sum (map f (prods t)) + list_sum (map g (terms t)).
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; simpl; try lra.
  rewrite !map_app, !list_sum_app. lra.
Qed.

Lemma list_sum_seq : forall f n, list_sum (map f (seq 0 n)) = sum n f.
Proof.
  induction n; [reflexivity|]. rewrite seq_S, map_app, list_sum_app, IHn. simpl. lra.
Qed.

(** The order of a sum is without influence on what is summed. *)
Lemma over_any_order : forall f g t n bias,
  Permutation (prods t) (seq 0 n) -> Permutation (terms t) bias -> over f g t = sum n f + list_sum (map g bias).
Proof.
  intros f g t n bias Hp Ht. rewrite over_lists. rewrite <- list_sum_seq. f_equal; apply list_sum_permutation, Permutation_map; assumption.
Qed.

(** * One node: Jeannerod and Rump's argument *)

Lemma node_additions : forall u n1 n2 S1 S2 z1 z2 D,
  0 < u <= / 2 -> 1 <= n1 -> 1 <= n2 -> 0 <= S1 -> 0 <= S2 ->
  Rabs z1 <= (1 + (n1 - 1) * u) * S1 -> Rabs z2 <= (1 + (n2 - 1) * u) * S2 ->
  D <= Rabs z1 -> D <= Rabs z2 -> D <= u * Rabs (z1 + z2) ->
  D <= u * (n2 * S1 + n1 * S2).
Proof.
  intros u n1 n2 S1 S2 z1 z2 D Hu Hn1 Hn2 HS1 HS2 Hz1 Hz2 HD1 HD2 HD.
  assert (Hnn1 : 0 <= n1 - 1) by lra. assert (Hnn2 : 0 <= n2 - 1) by lra.
  assert (HuS1 := Rmult_le_pos u S1 ltac:(lra) HS1). assert (HuS2 := Rmult_le_pos u S2 ltac:(lra) HS2).
  destruct (Rle_lt_dec S2 (u * S1)) as [H|H].
  - assert (A : (n2 - 1) * (u * S2) <= (n2 - 1) * (u * S1)).
    { apply Rmult_le_compat_l; [lra|]. apply Rmult_le_compat_l; nra. }
    assert (B : 0 <= n1 * (u * S2)) by (apply Rmult_le_pos; lra). nra.
  - destruct (Rle_lt_dec S1 (u * S2)) as [H'|H'].
    + assert (A : (n1 - 1) * (u * S1) <= (n1 - 1) * (u * S2)).
      { apply Rmult_le_compat_l; [lra|]. apply Rmult_le_compat_l; nra. }
      assert (B : 0 <= n2 * (u * S1)) by (apply Rmult_le_pos; lra). nra.
    + eapply Rle_trans. exact HD. apply Rmult_le_compat_l; [lra|].
      assert (T := Rabs_triang z1 z2).
      assert (A : (n1 - 1) * (u * S1) <= (n1 - 1) * S2) by (apply Rmult_le_compat_l; lra).
      assert (B : (n2 - 1) * (u * S2) <= (n2 - 1) * S1) by (apply Rmult_le_compat_l; lra).
      nra.
Qed.

(** The product of a fused operation is exact, and the accumulator does not bound the error. *)
Lemma node_fused : forall u n1 S1 p z1 D,
  0 < u <= / 2 -> 1 <= n1 -> 0 <= S1 ->
  Rabs z1 <= (1 + (n1 - 1) * u) * S1 -> D <= Rabs p -> D <= u * Rabs (p + z1) ->
  D <= u * (S1 + n1 * Rabs p).
Proof.
  intros u n1 S1 p z1 D Hu Hn1 HS1 Hz1 HDp HD. assert (Hp := Rabs_pos p).
  assert (HuS1 := Rmult_le_pos u S1 ltac:(lra) HS1). assert (Hup := Rmult_le_pos u (Rabs p) ltac:(lra) Hp).
  destruct (Rle_lt_dec (Rabs p) (u * S1)) as [H|H].
  - assert (B : 0 <= n1 * (u * Rabs p)) by (apply Rmult_le_pos; lra). nra.
  - eapply Rle_trans. exact HD. apply Rmult_le_compat_l; [lra|].
    assert (T := Rabs_triang p z1).
    assert (A : (n1 - 1) * (u * S1) <= (n1 - 1) * Rabs p) by (apply Rmult_le_compat_l; lra).
    nra.
Qed.

Lemma INR_pred : forall n, (1 <= n)%nat -> INR (n - 1) = INR n - 1.
Proof. intros. rewrite minus_INR by assumption. simpl. lra. Qed.

Lemma INR_ge_1 : forall n, (1 <= n)%nat -> 1 <= INR n.
Proof. intros. apply (le_INR 1). assumption. Qed.

Section Sums.

Variable f : format.
Hypothesis bits_pos : (0 < bits f)%Z.
Variable choice : Z -> bool.
Variable p : nat -> R.
Notation u := (unit_roundoff f).
Notation rnd := (RN f choice).
Notation run := (Model.run (RN f choice) p).

Definition weight (t : tree) : nat := (length (terms t) + products p t)%nat.

(** What a product contributes: rounded, or fused, where it is exact but for what is lost below the normal range.  An accumulator that is
    zero in every run makes a rounded product of a fused one. *)
Definition fused (k : nat) (t : tree) : R :=
  if Nat.eqb (weight t) 0 then rnd (p k)
  else if Rlt_dec (Rabs (p k + run t)) (smallest_normal f) then rnd (p k + run t) - run t
  else p k.

Fixpoint computed (g : R -> R) (t : tree) : R :=
  match t with
  | Term b => g b
  | Prod k => g (rnd (p k))
  | Add s t => computed g s + computed g t
  | Fma k t => g (fused k t) + computed g t
  end.

Notation id := (fun v : R => v).
Notation pos := (Rmax 0).
Notation neg := (fun v => Rmax 0 (- v)).

Lemma computed_nonneg : forall g t, (forall v, 0 <= g v) -> 0 <= computed g t.
Proof. induction t as [b|k|s IHs t IHt|k t IHt]; simpl; intros Hg; auto; apply Rplus_le_le_0_compat; auto. Qed.

Lemma computed_parts : forall t,
  computed id t = computed pos t - computed neg t /\ computed Rabs t = computed pos t + computed neg t.
Proof.
  assert (H : forall v, v = Rmax 0 v - Rmax 0 (- v) /\ Rabs v = Rmax 0 v + Rmax 0 (- v)).
  { intros v. unfold Rmax, Rabs. destruct (Rle_dec 0 v), (Rle_dec 0 (- v)), (Rcase_abs v); lra. }
  induction t as [b|k|s IHs t IHt|k t IHt]; simpl; try apply H.
  - lra.
  - generalize (H (fused k t)). lra.
Qed.

Lemma computed_within : forall t, Rabs (computed id t) <= Rmax (computed pos t) (computed neg t).
Proof.
  intros t. destruct (computed_parts t) as [-> _].
  assert (H1 := computed_nonneg pos t (fun v => Rmax_l 0 v)).
  assert (H2 := computed_nonneg neg t (fun v => Rmax_l 0 (- v))). simpl in H2.
  apply Rabs_le. generalize (Rmax_l (computed pos t) (computed neg t)) (Rmax_r (computed pos t) (computed neg t)). lra.
Qed.

Lemma computed_abs : forall t, Rabs (computed id t) <= computed Rabs t.
Proof.
  intros t. eapply Rle_trans. apply computed_within. destruct (computed_parts t) as [_ ->].
  assert (H1 := computed_nonneg pos t (fun v => Rmax_l 0 v)).
  assert (H2 := computed_nonneg neg t (fun v => Rmax_l 0 (- v))). simpl in H2.
  apply Rmax_lub; lra.
Qed.

Lemma nonzero_spec : forall v, nonzero v = false <-> v = 0.
Proof. intros v. unfold nonzero. destruct Req_EM_T; split; intros; try congruence; try contradiction. Qed.

Lemma weight_0 : forall t, weight t = 0%nat -> run t = 0 /\ forall g, g 0 = 0 -> computed g t = 0.
Proof.
  unfold weight. induction t as [b|k|s IHs t IHt|k t IHt]; simpl; intros H.
  - lia.
  - destruct (nonzero (p k)) eqn:E; simpl in H; [lia|]. apply nonzero_spec in E. rewrite E, rnd_0. auto.
  - rewrite app_length in H. destruct IHs as [-> Hs]; [lia|]. destruct IHt as [-> Ht]; [lia|].
    rewrite Rplus_0_r, rnd_0. split; [reflexivity|]. intros g Hg. rewrite Hs, Ht by assumption. lra.
  - destruct (nonzero (p k)) eqn:E; simpl in H; [lia|]. apply nonzero_spec in E.
    destruct IHt as [Hr Ht]; [lia|]. rewrite E, Hr, Rplus_0_r, rnd_0. split; [reflexivity|].
    intros g Hg. rewrite Ht by assumption. unfold fused, weight. replace (Nat.eqb _ 0) with true.
    + rewrite E, rnd_0. lra.
    + symmetry. apply Nat.eqb_eq. lia.
Qed.

Definition well (t : tree) : Prop := Forall (number f) (terms t).

Lemma well_add : forall s t, well (Add s t) -> well s /\ well t.
Proof. unfold well; simpl; intros. apply Forall_app; assumption. Qed.

Lemma run_number : forall t, well t -> number f (run t).
Proof.
  induction t; simpl; intros H; try (apply rnd_number; assumption).
  inversion H; assumption.
Qed.

(** The error of a node, and what bounds it. *)
Lemma add_node : forall s t, well s -> well t -> let D := Rabs (rnd (run s + run t) - (run s + run t)) in
  D <= Rabs (run s) /\ D <= Rabs (run t) /\ D <= u * ufp (run s + run t).
Proof.
  intros s t Hs Ht. simpl. repeat split.
  - apply sum_error_left; try assumption. apply run_number; assumption.
  - apply sum_error_right; try assumption. apply run_number; assumption.
  - apply sum_error; try assumption; apply run_number; assumption.
Qed.

Lemma fma_node : forall k t, well t -> weight t <> 0%nat -> let D := Rabs (rnd (p k + run t) - (fused k t + run t)) in
  D = 0 \/ fused k t = p k /\ D <= Rabs (p k) /\ D <= u * ufp (p k + run t).
Proof.
  intros k t Ht Hw. unfold fused. rewrite (proj2 (Nat.eqb_neq _ _) Hw). destruct Rlt_dec as [H|H]; simpl.
  - left. replace (_ - _) with 0 by ring. apply Rabs_R0.
  - right. split; [reflexivity|]. split.
    + apply sum_error_left; try assumption. apply run_number; assumption.
    + apply normal_error; try assumption. lra.
Qed.

Lemma fma_of_zero : forall k t, weight t = 0%nat -> rnd (p k + run t) = fused k t.
Proof. intros k t H. unfold fused. rewrite (proj2 (Nat.eqb_eq _ _) H). destruct (weight_0 t H) as [-> _]. f_equal. ring. Qed.

Lemma fma_of_nothing : forall k t, well t -> p k = 0 -> rnd (p k + run t) = run t /\ fused k t = 0.
Proof.
  intros k t Ht Hp. rewrite Hp, Rplus_0_l. assert (E : rnd (run t) = run t) by (apply rnd_id, run_number; assumption).
  split; [exact E|]. unfold fused. rewrite Hp, Rplus_0_l, E, rnd_0.
  destruct Nat.eqb; [reflexivity|]. destruct Rlt_dec; ring.
Qed.

Lemma weight_add : forall s t, weight (Add s t) = (weight s + weight t)%nat.
Proof. intros. unfold weight. simpl. rewrite app_length. lia. Qed.

Lemma weight_fma : forall k t, weight (Fma k t) = (one_if (nonzero (p k)) + weight t)%nat.
Proof. intros. unfold weight. simpl. lia. Qed.

Notation S := (computed Rabs).

Lemma run_bound : forall t, (1 <= weight t)%nat -> Rabs (run t - computed id t) <= INR (weight t - 1) * u * S t ->
  Rabs (run t) <= (1 + (INR (weight t) - 1) * u) * S t.
Proof.
  intros t Hw H. rewrite INR_pred in H by assumption. assert (H1 := computed_abs t).
  replace (run t) with (computed id t + (run t - computed id t)) by ring. eapply Rle_trans. apply Rabs_triang. lra.
Qed.

(** The classical part: the additions of numbers lose [(m - 1) u] of the sum of magnitudes. *)
Lemma classical : forall t, well t -> Rabs (run t - computed id t) <= INR (weight t - 1) * u * S t.
Proof.
  assert (Hu0 := unit_pos f). assert (Hu1 := unit_le_half f bits_pos).
  assert (HS : forall t, 0 <= S t) by (intros; apply computed_nonneg, Rabs_pos).
  induction t as [b|k|s IHs t IHt|k t IHt]; intros Hwell.
  - cbn [computed Model.run]. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply Rmult_le_pos; [|apply Rabs_pos]. apply Rmult_le_pos; [apply pos_INR|lra].
  - cbn [computed Model.run]. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply Rmult_le_pos; [|apply Rabs_pos]. apply Rmult_le_pos; [apply pos_INR|lra].
  - destruct (well_add _ _ Hwell) as [Hws Hwt]. specialize (IHs Hws). specialize (IHt Hwt).
    rewrite weight_add. simpl computed. simpl Model.run.
    destruct (Nat.eq_dec (weight s) 0) as [Zs|Zs].
    { destruct (weight_0 s Zs) as [Hr Hc]. rewrite Hr, (Hc id), (Hc Rabs), Zs by (reflexivity || apply Rabs_R0).
      rewrite !Rplus_0_l. rewrite rnd_id by (apply run_number; assumption). exact IHt. }
    destruct (Nat.eq_dec (weight t) 0) as [Zt|Zt].
    { destruct (weight_0 t Zt) as [Hr Hc]. rewrite Hr, (Hc id), (Hc Rabs), Zt by (reflexivity || apply Rabs_R0).
      rewrite !Rplus_0_r, Nat.add_0_r. rewrite rnd_id by (apply run_number; assumption). exact IHs. }
    destruct (add_node s t Hws Hwt) as [D1 [D2 D3]].
    assert (Hns := INR_ge_1 (weight s) ltac:(lia)). assert (Hnt := INR_ge_1 (weight t) ltac:(lia)).
    assert (Hrs := run_bound s ltac:(lia) IHs). assert (Hrt := run_bound t ltac:(lia) IHt).
    assert (ufp (run s + run t) <= Rabs (run s + run t)) by apply ufp_le.
    assert (N := node_additions u _ _ _ _ _ _ _ (conj Hu0 Hu1) Hns Hnt (HS s) (HS t) Hrs Hrt D1 D2
      ltac:(eapply Rle_trans; [exact D3 | apply Rmult_le_compat_l; lra])).
    rewrite INR_pred in IHs by lia. rewrite INR_pred in IHt by lia. rewrite INR_pred by lia. rewrite plus_INR.
    replace (rnd (run s + run t) - (computed id s + computed id t))
      with ((rnd (run s + run t) - (run s + run t)) + ((run s - computed id s) + (run t - computed id t))) by ring.
    eapply Rle_trans. apply Rabs_triang. assert (T := Rabs_triang (run s - computed id s) (run t - computed id t)).
    lra.
  - assert (Hwt : well t) by exact Hwell. specialize (IHt Hwt). rewrite weight_fma. simpl computed. simpl Model.run.
    destruct (Nat.eq_dec (weight t) 0) as [Zt|Zt].
    { rewrite fma_of_zero by assumption. destruct (weight_0 t Zt) as [_ Hc]. rewrite (Hc id), (Hc Rabs) by (reflexivity || apply Rabs_R0).
      rewrite Rplus_0_r. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply Rmult_le_pos; [|rewrite Rplus_0_r; apply Rabs_pos].
      apply Rmult_le_pos; [apply pos_INR|lra]. }
    destruct (nonzero (p k)) eqn:Zk.
    2: { apply nonzero_spec in Zk. destruct (fma_of_nothing k t Hwt Zk) as [-> ->]. rewrite Rabs_R0, !Rplus_0_l. exact IHt. }
    assert (Hnt := INR_ge_1 (weight t) ltac:(lia)). assert (Hrt := run_bound t ltac:(lia) IHt).
    rewrite INR_pred in IHt by lia.
    replace (INR (one_if true + weight t - 1)) with (INR (weight t)) by (f_equal; simpl; lia).
    replace (rnd (p k + run t) - (fused k t + computed id t))
      with ((rnd (p k + run t) - (fused k t + run t)) + (run t - computed id t)) by ring.
    eapply Rle_trans. apply Rabs_triang. assert (HSt := HS t). assert (Hfu := Rabs_pos (fused k t)).
    assert (P1 : 0 <= INR (weight t) * u * Rabs (fused k t)) by (apply Rmult_le_pos; [apply Rmult_le_pos|]; lra).
    assert (P2 : 0 <= u * S t) by (apply Rmult_le_pos; lra).
    destruct (fma_node k t Hwt Zt) as [->|[Ef [D1 D2]]]; [lra|].
    rewrite Ef in *. assert (ufp (p k + run t) <= Rabs (p k + run t)) by apply ufp_le.
    assert (N := node_fused u _ _ (p k) (run t) _ (conj Hu0 Hu1) Hnt HSt Hrt D1
      ltac:(eapply Rle_trans; [exact D2 | apply Rmult_le_compat_l; lra])).
    lra.
Qed.

(** The subset part: every partial sum is the sum of a subset of what the leaves contribute, and of errors. *)
Lemma monotone_additions : forall s t, (weight s <= weight t)%nat -> INR (weight s - 1) <= INR (weight t - 1).
Proof. intros. apply le_INR. lia. Qed.

Lemma subsets : forall bound t, well t ->
  Rmax (computed pos t) (computed neg t) + INR (weight t - 1) * u * S t <= bound ->
  Rabs (run t - computed id t) <= INR (weight t - 1) * (u * ufp bound).
Proof.
  intros bound. assert (Hu0 := unit_pos f). assert (Hu1 := unit_le_half f bits_pos).
  assert (HS : forall t, 0 <= S t) by (intros; apply computed_nonneg, Rabs_pos).
  assert (HP : forall t, 0 <= computed pos t) by (intros; apply computed_nonneg; intros; apply Rmax_l).
  assert (HN : forall t, 0 <= computed neg t) by (intros; apply computed_nonneg; intros; apply Rmax_l).
  assert (Hb : 0 <= u * ufp bound) by (apply Rmult_le_pos; [lra | apply ufp_ge_0]).
  assert (Hleaf : forall v n, Rabs (v - v) <= INR n * (u * ufp bound)).
  { intros. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply Rmult_le_pos; [apply pos_INR | assumption]. }
  assert (Hmono : forall s t a c, a <= c -> (weight s <= weight t)%nat -> S s <= S t -> c + INR (weight t - 1) * u * S t <= bound ->
                  a + INR (weight s - 1) * u * S s <= bound).
  { intros s t a c Hac Hw HSS H. eapply Rle_trans with (2 := H). apply Rplus_le_compat; [assumption|].
    apply Rmult_le_compat; try assumption. apply Rmult_le_pos; [apply pos_INR | lra]. apply HS.
    apply Rmult_le_compat_r; [lra | apply monotone_additions; assumption]. }
  induction t as [b|k|s IHs t IHt|k t IHt]; intros Hwell Hbound; try apply Hleaf.
  - destruct (well_add _ _ Hwell) as [Hws Hwt].
    assert (Cs := classical s Hws). assert (Ct := classical t Hwt).
    assert (Ws : (weight s <= weight (Add s t))%nat) by (rewrite weight_add; lia).
    assert (Wt : (weight t <= weight (Add s t))%nat) by (rewrite weight_add; lia).
    assert (Ss : S s <= S (Add s t)) by (simpl; generalize (HS t); lra).
    assert (St : S t <= S (Add s t)) by (simpl; generalize (HS s); lra).
    assert (Ps : Rmax (computed pos s) (computed neg s) <= Rmax (computed pos (Add s t)) (computed neg (Add s t))).
    { simpl. apply Rmax_lub; [eapply Rle_trans with (2 := Rmax_l _ _) | eapply Rle_trans with (2 := Rmax_r _ _)];
      [generalize (HP t) | generalize (HN t)]; simpl; lra. }
    assert (Pt : Rmax (computed pos t) (computed neg t) <= Rmax (computed pos (Add s t)) (computed neg (Add s t))).
    { simpl. apply Rmax_lub; [eapply Rle_trans with (2 := Rmax_l _ _) | eapply Rle_trans with (2 := Rmax_r _ _)];
      [generalize (HP s) | generalize (HN s)]; simpl; lra. }
    specialize (IHs Hws (Hmono _ _ _ _ Ps Ws Ss Hbound)). specialize (IHt Hwt (Hmono _ _ _ _ Pt Wt St Hbound)).
    rewrite weight_add in *. simpl computed in *. simpl Model.run in *.
    destruct (Nat.eq_dec (weight s) 0) as [Zs|Zs].
    { destruct (weight_0 s Zs) as [Hr Hc]. rewrite Hr, (Hc id), Zs by reflexivity. rewrite !Rplus_0_l.
      rewrite rnd_id by (apply run_number; assumption). exact IHt. }
    destruct (Nat.eq_dec (weight t) 0) as [Zt|Zt].
    { destruct (weight_0 t Zt) as [Hr Hc]. rewrite Hr, (Hc id), Zt by reflexivity. rewrite !Rplus_0_r, Nat.add_0_r.
      rewrite rnd_id by (apply run_number; assumption). exact IHs. }
    destruct (add_node s t Hws Hwt) as [_ [_ D]].
    assert (Hsum : Rabs (run s + run t) <= Rabs bound).
    { eapply Rle_trans with (2 := Rle_abs bound). eapply Rle_trans with (2 := Hbound).
      assert (W := computed_within (Add s t)). simpl computed in W.
      replace (run s + run t) with ((computed id s + computed id t) + ((run s - computed id s) + (run t - computed id t))) by ring.
      eapply Rle_trans. apply Rabs_triang. apply Rplus_le_compat; [exact W|].
      eapply Rle_trans. apply Rabs_triang.
      assert (INR (weight s - 1) * u * S s <= INR (weight s + weight t - 1) * u * S s).
      { apply Rmult_le_compat_r; [apply HS|]. apply Rmult_le_compat_r; [lra|]. apply le_INR. lia. }
      assert (INR (weight t - 1) * u * S t <= INR (weight s + weight t - 1) * u * S t).
      { apply Rmult_le_compat_r; [apply HS|]. apply Rmult_le_compat_r; [lra|]. apply le_INR. lia. }
      lra. }
    assert (Hufp := ufp_monotone _ _ Hsum).
    assert (D' : Rabs (rnd (run s + run t) - (run s + run t)) <= u * ufp bound).
    { eapply Rle_trans. exact D. apply Rmult_le_compat_l; lra. }
    rewrite INR_pred in IHs by lia. rewrite INR_pred in IHt by lia. rewrite INR_pred by lia. rewrite plus_INR.
    replace (rnd (run s + run t) - (computed id s + computed id t))
      with ((rnd (run s + run t) - (run s + run t)) + ((run s - computed id s) + (run t - computed id t))) by ring.
    eapply Rle_trans. apply Rabs_triang. assert (T := Rabs_triang (run s - computed id s) (run t - computed id t)).
    lra.
  - assert (Hwt : well t) by exact Hwell. assert (Ct := classical t Hwt).
    assert (Wt : (weight t <= weight (Fma k t))%nat) by (rewrite weight_fma; lia).
    assert (St : S t <= S (Fma k t)) by (simpl; generalize (Rabs_pos (fused k t)); lra).
    assert (Pt : Rmax (computed pos t) (computed neg t) <= Rmax (computed pos (Fma k t)) (computed neg (Fma k t))).
    { simpl. apply Rmax_lub; [eapply Rle_trans with (2 := Rmax_l _ _) | eapply Rle_trans with (2 := Rmax_r _ _)];
      [generalize (Rmax_l 0 (fused k t)) | generalize (Rmax_l 0 (- fused k t))]; simpl; lra. }
    specialize (IHt Hwt (Hmono _ _ _ _ Pt Wt St Hbound)).
    rewrite weight_fma in *. simpl computed in *. simpl Model.run in *.
    destruct (Nat.eq_dec (weight t) 0) as [Zt|Zt].
    { rewrite fma_of_zero by assumption. destruct (weight_0 t Zt) as [_ Hc]. rewrite (Hc id) by reflexivity. rewrite Rplus_0_r. apply Hleaf. }
    destruct (nonzero (p k)) eqn:Zk.
    2: { apply nonzero_spec in Zk. destruct (fma_of_nothing k t Hwt Zk) as [-> ->]. rewrite !Rplus_0_l. exact IHt. }
    rewrite INR_pred in IHt by lia.
    replace (INR (one_if true + weight t - 1)) with (INR (weight t)) in * by (f_equal; simpl; lia).
    replace (rnd (p k + run t) - (fused k t + computed id t))
      with ((rnd (p k + run t) - (fused k t + run t)) + (run t - computed id t)) by ring.
    eapply Rle_trans. apply Rabs_triang.
    destruct (fma_node k t Hwt Zt) as [->|[Ef [_ D]]]; [lra|].
    assert (Hsum : Rabs (p k + run t) <= Rabs bound).
    { eapply Rle_trans with (2 := Rle_abs bound). eapply Rle_trans with (2 := Hbound).
      assert (W := computed_within (Fma k t)). simpl computed in W. rewrite Ef in *.
      replace (p k + run t) with ((p k + computed id t) + (run t - computed id t)) by ring.
      eapply Rle_trans. apply Rabs_triang. apply Rplus_le_compat; [exact W|]. eapply Rle_trans. exact Ct.
      apply Rmult_le_compat; try lra.
      - apply Rmult_le_pos; [apply pos_INR|lra].
      - apply HS.
      - apply Rmult_le_compat_r; [lra|]. apply le_INR. lia. }
    assert (Hufp := ufp_monotone _ _ Hsum).
    assert (D' : Rabs (rnd (p k + run t) - (fused k t + run t)) <= u * ufp bound).
    { eapply Rle_trans. exact D. apply Rmult_le_compat_l; lra. }
    lra.
Qed.

(** All that is computed on the way is bounded by the same numbers as the result. *)
Lemma intermediates_bound : forall top_ a1 a2 bound t, well t ->
  Rmax (computed pos t) (computed neg t) <= top_ -> INR (weight t - 1) * u * S t <= a1 ->
  top_ + a1 <= bound -> INR (weight t - 1) * (u * ufp bound) <= a2 ->
  Forall (fun v => Rabs v <= top_ + Rmin a1 a2) (intermediates rnd p t).
Proof.
  intros top_ a1 a2 bound. assert (Hu0 := unit_pos f).
  assert (HS : forall t, 0 <= S t) by (intros; apply computed_nonneg, Rabs_pos).
  assert (HP : forall t, 0 <= computed pos t) by (intros; apply computed_nonneg; intros; apply Rmax_l).
  assert (HN : forall t, 0 <= computed neg t) by (intros; apply computed_nonneg; intros; apply Rmax_l).
  assert (Hb : 0 <= u * ufp bound) by (apply Rmult_le_pos; [lra | apply ufp_ge_0]).
  assert (Hself : forall t, well t -> Rmax (computed pos t) (computed neg t) <= top_ -> INR (weight t - 1) * u * S t <= a1 ->
    top_ + a1 <= bound -> INR (weight t - 1) * (u * ufp bound) <= a2 -> Rabs (run t) <= top_ + Rmin a1 a2).
  { intros t Hwell H1 H2 H3 H4. replace (run t) with (computed id t + (run t - computed id t)) by ring.
    eapply Rle_trans. apply Rabs_triang. apply Rplus_le_compat.
    - eapply Rle_trans. apply computed_within. exact H1.
    - apply Rmin_glb.
      + eapply Rle_trans. apply classical; assumption. exact H2.
      + eapply Rle_trans. apply subsets with (bound := bound); [assumption | lra]. exact H4. }
  assert (Hless : forall s t, (weight s <= weight t)%nat -> S s <= S t -> INR (weight t - 1) * u * S t <= a1 ->
     INR (weight t - 1) * (u * ufp bound) <= a2 -> INR (weight s - 1) * u * S s <= a1 /\ INR (weight s - 1) * (u * ufp bound) <= a2).
  { intros s t Hw HSS H1 H2. assert (M := monotone_additions s t Hw). split.
    - eapply Rle_trans with (2 := H1). apply Rmult_le_compat; try assumption. apply Rmult_le_pos; [apply pos_INR|lra]. apply HS.
      apply Rmult_le_compat_r; [lra|exact M].
    - eapply Rle_trans with (2 := H2). apply Rmult_le_compat_r; assumption. }
  induction t as [b|k|s IHs t IHt|k t IHt]; intros Hwell H1 H2 H3 H4.
  - constructor; [apply (Hself (Term b)); assumption | constructor].
  - constructor; [apply (Hself (Prod k)); assumption | constructor].
  - destruct (well_add _ _ Hwell) as [Hws Hwt].
    simpl intermediates. constructor; [apply (Hself (Add s t)); assumption|].
    apply Forall_app.
    assert (Ws : (weight s <= weight (Add s t))%nat) by (rewrite weight_add; lia).
    assert (Wt : (weight t <= weight (Add s t))%nat) by (rewrite weight_add; lia).
    assert (Ss : S s <= S (Add s t)) by (simpl; generalize (HS t); lra).
    assert (St : S t <= S (Add s t)) by (simpl; generalize (HS s); lra).
    destruct (Hless _ _ Ws Ss H2 H4). destruct (Hless _ _ Wt St H2 H4).
    split; [apply IHs | apply IHt]; try assumption.
    + eapply Rle_trans with (2 := H1). simpl. apply Rmax_lub; [eapply Rle_trans with (2 := Rmax_l _ _) | eapply Rle_trans with (2 := Rmax_r _ _)];
      [generalize (HP t) | generalize (HN t)]; simpl; lra.
    + eapply Rle_trans with (2 := H1). simpl. apply Rmax_lub; [eapply Rle_trans with (2 := Rmax_l _ _) | eapply Rle_trans with (2 := Rmax_r _ _)];
      [generalize (HP s) | generalize (HN s)]; simpl; lra.
  - simpl intermediates. constructor; [apply (Hself (Fma k t)); assumption|].
    assert (Wt : (weight t <= weight (Fma k t))%nat) by (rewrite weight_fma; lia).
    assert (St : S t <= S (Fma k t)) by (simpl; generalize (Rabs_pos (fused k t)); lra).
    destruct (Hless _ _ Wt St H2 H4). apply IHt; try assumption.
    eapply Rle_trans with (2 := H1). simpl. apply Rmax_lub; [eapply Rle_trans with (2 := Rmax_l _ _) | eapply Rle_trans with (2 := Rmax_r _ _)];
      [generalize (Rmax_l 0 (fused k t)) | generalize (Rmax_l 0 (- fused k t))]; simpl; lra.
Qed.

(** ** The products *)

Variables r h : R.
Hypothesis r_nonneg : 0 <= r.
Hypothesis h_nonneg : 0 <= h.

Lemma leaf_error : forall v, product_error f choice r h v -> Rabs (rnd v - v) <= r * Rabs v + INR (one_if (nonzero v)) * h.
Proof.
  intros v [H _]. destruct (nonzero v) eqn:E; simpl; [lra|]. apply nonzero_spec in E. rewrite E, rnd_0, Rminus_0_r, Rabs_R0. lra.
Qed.

Lemma fused_error : forall k t, well t -> product_error f choice r h (p k) ->
  Rabs (fused k t - p k) <= r * Rabs (p k) + INR (one_if (nonzero (p k))) * h.
Proof.
  intros k t Ht Hp. assert (Hr : 0 <= r * Rabs (p k)) by (apply Rmult_le_pos; [assumption | apply Rabs_pos]).
  destruct (nonzero (p k)) eqn:E.
  2: { apply nonzero_spec in E. destruct (fma_of_nothing k t Ht E) as [_ ->]. rewrite E, Rminus_0_r, Rabs_R0. simpl. lra. }
  unfold fused. destruct Nat.eqb. { assert (L := leaf_error _ Hp). rewrite E in L. exact L. }
  destruct Rlt_dec as [H|H].
  - replace (rnd (p k + run t) - run t - p k) with (rnd (p k + run t) - (p k + run t)) by ring. simpl.
    destruct (proj2 Hp) as [Hn|Hn].
    + rewrite small_fused_exact; try assumption. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra. apply run_number; assumption.
    + assert (E2 := subnormal_error f bits_pos choice _ H). lra.
  - unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. simpl. lra.
Qed.

Definition lost (t : tree) : R := r * over (fun k => Rabs (p k)) (fun _ => 0) t + INR (products p t) * h.

Lemma computed_error : forall g t, (forall a b, Rabs (g a - g b) <= Rabs (a - b)) -> well t ->
  (forall k, In k (prods t) -> product_error f choice r h (p k)) ->
  Rabs (computed g t - over (fun k => g (p k)) g t) <= lost t.
Proof.
  unfold lost. intros g t Hg. induction t as [b|k|s IHs t IHt|k t IHt]; intros Hwell Hp; simpl.
  - unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - eapply Rle_trans. apply Hg. apply leaf_error. apply Hp. left; reflexivity.
  - destruct (well_add _ _ Hwell) as [Hws Hwt].
    assert (A := IHs Hws (fun k H => Hp k (in_or_app _ _ _ (or_introl H)))).
    assert (B := IHt Hwt (fun k H => Hp k (in_or_app _ _ _ (or_intror H)))).
    match goal with |- Rabs (?a + ?b - (?c + ?d)) <= _ => replace (a + b - (c + d)) with ((a - c) + (b - d)) by ring end.
    eapply Rle_trans. apply Rabs_triang. rewrite plus_INR. lra.
  - assert (B := IHt Hwell (fun k H => Hp k (or_intror H))).
    match goal with |- Rabs (?a + ?b - (?c + ?d)) <= _ => replace (a + b - (c + d)) with ((a - c) + (b - d)) by ring end.
    eapply Rle_trans. apply Rabs_triang. rewrite plus_INR.
    assert (C := fused_error k t Hwell (Hp k (or_introl eq_refl))). assert (D := Hg (fused k t) (p k)). lra.
Qed.

End Sums.

(** * Over an enclosure: what [ops._dot.any_order] computes *)

Section Enclosure.

Variable f : format.
Hypothesis bits_pos : (0 < bits f)%Z.
Variable choice : Z -> bool.
Variables p c q : nat -> R.
Variables r h : R.
Hypothesis r_nonneg : 0 <= r.
Hypothesis h_nonneg : 0 <= h.
Variable t : tree.
Hypothesis terms_numbers : Forall (number f) (terms t).
Hypothesis products_ok : forall k, In k (prods t) -> product_error f choice r h (p k).
Hypothesis enclosed : forall k, In k (prods t) -> Rabs (p k - c k) <= q k.

Notation u := (unit_roundoff f).

Definition magnitude := over (fun k => Rabs (c k)) Rabs t.
Definition carried := over q (fun _ => 0) t.
Definition centre := over c (fun b => b) t.

Lemma lipschitz_enclosed : forall g : R -> R, (forall a b, Rabs (g a - g b) <= Rabs (a - b)) ->
  over (fun k => g (p k)) g t <= over (fun k => g (c k)) g t + carried.
Proof.
  intros g Hg. unfold carried. rewrite <- over_plus. apply over_le.
  - intros k Hk. generalize (Hg (p k) (c k)) (enclosed k Hk) (Rle_abs (g (p k) - g (c k))). lra.
  - intros; lra.
Qed.

Lemma abs_lipschitz : forall a b, Rabs (Rabs a - Rabs b) <= Rabs (a - b).
Proof. exact Rabs_triang_inv2. Qed.

Lemma pos_lipschitz : forall a b, Rabs (Rmax 0 a - Rmax 0 b) <= Rabs (a - b).
Proof. intros. unfold Rmax, Rabs. destruct (Rle_dec 0 a), (Rle_dec 0 b); repeat destruct Rcase_abs; lra. Qed.

Lemma neg_lipschitz : forall a b, Rabs (Rmax 0 (- a) - Rmax 0 (- b)) <= Rabs (a - b).
Proof. intros. unfold Rmax, Rabs. destruct (Rle_dec 0 (-a)), (Rle_dec 0 (-b)); repeat destruct Rcase_abs; lra. Qed.

Lemma halves : over (fun k => Rmax 0 (c k)) (Rmax 0) t = (magnitude + centre) / 2
  /\ over (fun k => Rmax 0 (- c k)) (fun b => Rmax 0 (- b)) t = (magnitude - centre) / 2.
Proof.
  unfold magnitude, centre. assert (H : forall v, Rmax 0 v = (Rabs v + v) / 2 /\ Rmax 0 (- v) = (Rabs v - v) / 2).
  { intros v. unfold Rmax, Rabs. destruct (Rle_dec 0 v), (Rle_dec 0 (-v)), (Rcase_abs v); lra. }
  clear -H. induction t as [b|k|s1 IHs s2 IHt|k s2 IHt]; simpl.
  - apply H.
  - apply H.
  - lra.
  - generalize (H (c k)). lra.
Qed.

(** The numbers of the code. *)
Variables m s v n : R.
Hypothesis n_bound : INR (additions p t) <= n.
Hypothesis m_bound : magnitude + carried <= m.
Hypothesis s_bound : (magnitude + Rabs centre) / 2 + carried <= s.
Hypothesis v_bound : r * m + INR (products p t) * h <= v.

Theorem any_order :
  let classical := n * u * (m + v) in
  let subset := n * (u * ufp (s + v + classical)) in
  Rabs (Model.run (RN f choice) p t - exact p t) <= v + Rmin classical subset
  /\ Forall (fun i => Rabs i <= s + v + Rmin classical subset) (intermediates (RN f choice) p t).
Proof.
  intros classical_ subset_.
  assert (Hu0 := unit_pos f).
  assert (Wn : (weight p t - 1)%nat = additions p t) by (unfold weight, additions; reflexivity).
  assert (Habs : over (fun k => Rabs (p k)) Rabs t <= m).
  { eapply Rle_trans. apply lipschitz_enclosed. exact abs_lipschitz. exact m_bound. }
  assert (Hlost : lost p r h t <= v).
  { eapply Rle_trans with (2 := v_bound). unfold lost. apply Rplus_le_compat_r. apply Rmult_le_compat_l; [assumption|].
    eapply Rle_trans with (2 := Habs). apply over_le; intros; [lra | apply Rabs_pos]. }
  assert (HS : computed f choice p Rabs t <= m + v).
  { assert (A := computed_error f bits_pos choice p r h r_nonneg h_nonneg Rabs t abs_lipschitz terms_numbers products_ok).
    assert (B := Rle_abs (computed f choice p Rabs t - over (fun k => Rabs (p k)) Rabs t)). lra. }
  destruct halves as [Hp Hn].
  assert (HP : computed f choice p (Rmax 0) t <= s + v).
  { assert (A := computed_error f bits_pos choice p r h r_nonneg h_nonneg _ t pos_lipschitz terms_numbers products_ok).
    assert (B := Rle_abs (computed f choice p (Rmax 0) t - over (fun k => Rmax 0 (p k)) (Rmax 0) t)).
    assert (C := lipschitz_enclosed _ pos_lipschitz). assert (D := Rle_abs centre). simpl in *. lra. }
  assert (HN : computed f choice p (fun a => Rmax 0 (- a)) t <= s + v).
  { assert (A := computed_error f bits_pos choice p r h r_nonneg h_nonneg _ t neg_lipschitz terms_numbers products_ok).
    assert (B := Rle_abs (computed f choice p (fun a => Rmax 0 (- a)) t - over (fun k => Rmax 0 (- p k)) (fun b => Rmax 0 (- b)) t)).
    assert (C := lipschitz_enclosed _ neg_lipschitz). assert (D := Rle_abs (- centre)). rewrite Rabs_Ropp in D. simpl in *. lra. }
  assert (HPN : Rmax (computed f choice p (Rmax 0) t) (computed f choice p (fun a => Rmax 0 (- a)) t) <= s + v) by (apply Rmax_lub; assumption).
  assert (Hn0 : 0 <= INR (additions p t)) by apply pos_INR.
  assert (Hcl : INR (weight p t - 1) * u * computed f choice p Rabs t <= classical_).
  { rewrite Wn. unfold classical_. apply Rmult_le_compat; [apply Rmult_le_pos; lra | apply computed_nonneg, Rabs_pos | | exact HS].
    apply Rmult_le_compat_r; lra. }
  assert (Hsu : INR (weight p t - 1) * (u * ufp (s + v + classical_)) <= subset_).
  { rewrite Wn. unfold subset_. apply Rmult_le_compat_r; [|exact n_bound]. apply Rmult_le_pos; [lra | apply ufp_ge_0]. }
  split.
  - replace (Model.run (RN f choice) p t - exact p t)
      with ((Model.run (RN f choice) p t - computed f choice p (fun a => a) t) + (computed f choice p (fun a => a) t - exact p t)) by ring.
    eapply Rle_trans. apply Rabs_triang. rewrite Rplus_comm. apply Rplus_le_compat.
    + eapply Rle_trans with (2 := Hlost). unfold exact.
      apply (computed_error f bits_pos choice p r h r_nonneg h_nonneg (fun a => a) t (fun a b => Rle_refl _) terms_numbers products_ok).
    + apply Rmin_glb.
      * eapply Rle_trans. apply (classical f bits_pos choice p t terms_numbers). exact Hcl.
      * eapply Rle_trans with (2 := Hsu). apply (subsets f bits_pos choice p (s + v + classical_) t terms_numbers). lra.
  - apply (intermediates_bound f bits_pos choice p (s + v) classical_ subset_ (s + v + classical_) t terms_numbers); try assumption.
    lra.
Qed.

(** What is stored of it. *)
Theorem any_order_stored : forall g choice', (0 < bits g)%Z ->
  let classical := n * u * (m + v) in
  let subset := n * (u * ufp (s + v + classical)) in
  let fresh := v + Rmin classical subset in
  Rabs (RN g choice' (Model.run (RN f choice) p t) - centre) <= carried + fresh + store_error g (Rabs centre + carried + fresh).
Proof.
  intros g choice' Hg cl su fresh. destruct any_order as [H _]. fold cl su in H. fold fresh in H.
  assert (Hc : Rabs (exact p t - centre) <= carried).
  { unfold exact, centre, carried. clear -enclosed. revert enclosed.
    induction t as [b|k|s1 IHs s2 IHt|k s2 IHt]; simpl; intros He.
    - unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
    - apply He. left; reflexivity.
    - assert (A := IHs (fun k H => He k (in_or_app _ _ _ (or_introl H)))). assert (B := IHt (fun k H => He k (in_or_app _ _ _ (or_intror H)))).
      match goal with |- Rabs (?a + ?b - (?c + ?d)) <= _ => replace (a + b - (c + d)) with ((a - c) + (b - d)) by ring end.
      eapply Rle_trans. apply Rabs_triang. lra.
    - assert (A := He k (or_introl eq_refl)). assert (B := IHt (fun k H => He k (or_intror H))).
      match goal with |- Rabs (?a + ?b - (?c + ?d)) <= _ => replace (a + b - (c + d)) with ((a - c) + (b - d)) by ring end.
      eapply Rle_trans. apply Rabs_triang. lra. }
  set (y := Model.run (RN f choice) p t) in *.
  assert (Hy : Rabs (y - centre) <= carried + fresh).
  { replace (y - centre) with ((y - exact p t) + (exact p t - centre)) by ring. eapply Rle_trans. apply Rabs_triang. lra. }
  assert (Hm : Rabs y <= Rabs centre + carried + fresh).
  { replace y with (centre + (y - centre)) by ring. eapply Rle_trans. apply Rabs_triang. lra. }
  assert (E := rnd_error_within g Hg choice' y _ Hm).
  replace (RN g choice' y - centre) with ((RN g choice' y - y) + (y - centre)) by ring.
  eapply Rle_trans. apply Rabs_triang. lra.
Qed.

End Enclosure.
