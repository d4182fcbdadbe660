(** A named tree: theorem 4 of bounds.md. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From Flocq Require Import Core.
From PrecisionKit Require Import Model Rounding Dot.
Import ListNotations.
Open Scope R_scope.

Section Named.

Variable f : format.
Hypothesis bits_pos : (0 < bits f)%Z.
Variable choice : Z -> bool.
Variables c q : nat -> R.
Variables r h : R.
Notation u := (unit_roundoff f).
Notation rnd := (RN f choice).

(** Whether a number can differ from zero in some run. *)
Fixpoint occupied (t : tree) : bool :=
  match t with
  | Term _ => true
  | Prod k => nonzero (c k) || nonzero (q k)
  | Add s t => occupied s || occupied t
  | Fma k t => (nonzero (c k) || nonzero (q k)) || occupied t
  end%bool.

Definition leaf_error (k : nat) : R := if (nonzero (c k) || nonzero (q k))%bool then r * (Rabs (c k) + q k) + h else 0.

Definition node_error (occupied_ : bool) (magnitude before : R) : R := before + (if occupied_ then u * ufp magnitude else 0).

(** Half an ulp of every partial sum, enclosed. *)
Fixpoint running (t : tree) : R :=
  match t with
  | Term _ => 0
  | Prod k => leaf_error k
  | Add s t => let before := running s + running t in
               node_error (occupied s && occupied t) (Rabs (centre c s + centre c t) + (carried q s + carried q t) + before) before
  | Fma k t => let before := leaf_error k + running t in
               node_error ((nonzero (c k) || nonzero (q k)) && occupied t) (Rabs (c k + centre c t) + (q k + carried q t) + before) before
  end.

(** Whether a product is rounded or fused, the bound is the same. *)
Lemma running_fused : forall k t, running (Fma k t) = running (Add (Prod k) t).
Proof. reflexivity. Qed.

Hypothesis r_nonneg : 0 <= r.
Hypothesis h_nonneg : 0 <= h.
Variable p : nat -> R.
Notation run := (Model.run (RN f choice) p).

Hypothesis q_nonneg : forall k, 0 <= q k.

Lemma leaf_error_nonneg : forall k, 0 <= leaf_error k.
Proof.
  intros. unfold leaf_error. destruct orb; [|lra]. apply Rplus_le_le_0_compat; [|assumption]. apply Rmult_le_pos; [assumption|].
  generalize (Rabs_pos (c k)) (q_nonneg k). lra.
Qed.

Lemma running_nonneg : forall t, 0 <= running t.
Proof.
  assert (N : forall o m b, 0 <= b -> 0 <= node_error o m b).
  { intros. unfold node_error. destruct o; [|lra]. assert (0 <= u * ufp m); [|lra]. apply Rmult_le_pos; [apply Rlt_le, unit_pos|apply ufp_ge_0]. }
  induction t as [b|k|s IHs t IHt|k t IHt]; cbn [running]; try lra.
  - apply leaf_error_nonneg.
  - apply N. lra.
  - apply N. generalize (leaf_error_nonneg k). lra.
Qed.

Lemma silent_product : forall k, Rabs (p k - c k) <= q k -> (nonzero (c k) || nonzero (q k))%bool = false -> p k = 0.
Proof.
  intros k H E. apply Bool.orb_false_iff in E. destruct E as [E1 E2]. apply nonzero_spec in E1. apply nonzero_spec in E2.
  rewrite E1, E2, Rminus_0_r in H. generalize (Rabs_pos (p k)). intros. destruct (Req_EM_T (p k) 0); [assumption|].
  generalize (Rabs_pos_lt (p k) n). lra.
Qed.

Lemma silent : forall t, (forall k, In k (prods t) -> Rabs (p k - c k) <= q k) -> occupied t = false ->
  run t = 0 /\ exact p t = 0 /\ running t = 0.
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; intros He E; simpl in E; try discriminate.
  - assert (H := silent_product k (He k (or_introl eq_refl)) E).
    unfold exact; simpl. unfold leaf_error. rewrite E, H, rnd_0 by assumption. auto.
  - apply Bool.orb_false_iff in E. destruct E as [Es Et].
    destruct (IHs (fun k H => He k (in_or_app _ _ _ (or_introl H))) Es) as [H1 [H2 H3]].
    destruct (IHt (fun k H => He k (in_or_app _ _ _ (or_intror H))) Et) as [H4 [H5 H6]].
    unfold exact in *. simpl. unfold node_error. rewrite Es, H1, H2, H3, H4, H5, H6. simpl. rewrite !Rplus_0_l, rnd_0 by assumption. auto.
  - apply Bool.orb_false_iff in E. destruct E as [Es Et].
    assert (H := silent_product k (He k (or_introl eq_refl)) Es).
    destruct (IHt (fun k H => He k (or_intror H)) Et) as [H4 [H5 H6]].
    unfold exact in *. simpl. unfold node_error, leaf_error. rewrite Es, H, H4, H5, H6. simpl. rewrite !Rplus_0_l, rnd_0 by assumption. auto.
Qed.

Lemma leaf_bound : forall k, product_error f choice r h (p k) -> Rabs (p k - c k) <= q k -> Rabs (rnd (p k) - p k) <= leaf_error k.
Proof.
  intros k [H _] He. unfold leaf_error. destruct (orb _ _) eqn:E.
  - eapply Rle_trans. exact H. apply Rplus_le_compat_r. apply Rmult_le_compat_l; [assumption|].
    replace (p k) with (c k + (p k - c k)) by ring. eapply Rle_trans. apply Rabs_triang. lra.
  - rewrite (silent_product k He E), rnd_0, Rminus_0_r, Rabs_R0 by assumption. lra.
Qed.

Theorem named_tree : forall t, Forall (number f) (terms t) ->
  (forall k, In k (prods t) -> product_error f choice r h (p k)) -> (forall k, In k (prods t) -> Rabs (p k - c k) <= q k) ->
  Rabs (run t - exact p t) <= running t /\ Rabs (exact p t - centre c t) <= carried q t.
Proof.
  assert (Hu := unit_pos f).
  induction t as [b|k|s IHs t IHt|k t IHt]; intros Hwell Hp He.
  - unfold exact, centre, carried. simpl. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - unfold exact, centre, carried. simpl. split; [apply leaf_bound|]; auto using in_eq.
    + apply Hp; left; reflexivity.
    + apply He; left; reflexivity.
    + apply He; left; reflexivity.
  - destruct (well_add _ _ _ Hwell) as [Hws Hwt].
    assert (Hes := fun k H => He k (in_or_app (prods s) (prods t) k (or_introl H))).
    assert (Het := fun k H => He k (in_or_app (prods s) (prods t) k (or_intror H))).
    destruct (IHs Hws (fun k H => Hp k (in_or_app _ _ _ (or_introl H))) Hes) as [As Bs].
    destruct (IHt Hwt (fun k H => Hp k (in_or_app _ _ _ (or_intror H))) Het) as [At Bt].
    assert (Hs := run_number f bits_pos choice p s Hws). assert (Ht := run_number f bits_pos choice p t Hwt).
    change (exact p (Add s t)) with (exact p s + exact p t). change (centre c (Add s t)) with (centre c s + centre c t).
    change (carried q (Add s t)) with (carried q s + carried q t). cbn [Model.run running]. unfold node_error.
    split.
    2: { replace (exact p s + exact p t - (centre c s + centre c t)) with ((exact p s - centre c s) + (exact p t - centre c t)) by ring.
         eapply Rle_trans. apply Rabs_triang. lra. }
    replace (rnd (run s + run t) - (exact p s + exact p t))
      with ((rnd (run s + run t) - (run s + run t)) + ((run s - exact p s) + (run t - exact p t))) by ring.
    eapply Rle_trans. apply Rabs_triang. rewrite Rplus_comm. apply Rplus_le_compat.
    + eapply Rle_trans. apply Rabs_triang. lra.
    + destruct (occupied s) eqn:Os; [destruct (occupied t) eqn:Ot|]; simpl.
      * eapply Rle_trans. apply sum_error; assumption. apply Rmult_le_compat_l; [lra|]. apply ufp_monotone.
        eapply Rle_trans with (2 := Rle_abs _).
        replace (run s + run t) with ((centre c s + centre c t) + ((exact p s - centre c s) + (exact p t - centre c t) + ((run s - exact p s) + (run t - exact p t)))) by ring.
        eapply Rle_trans. apply Rabs_triang.
        assert (T0 := Rabs_triang (exact p s - centre c s + (exact p t - centre c t)) (run s - exact p s + (run t - exact p t))).
        assert (T1 := Rabs_triang (exact p s - centre c s) (exact p t - centre c t)).
        assert (T2 := Rabs_triang (run s - exact p s) (run t - exact p t)). lra.
      * destruct (silent t Het Ot) as [-> _]. rewrite Rplus_0_r, rnd_id by assumption. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
      * destruct (silent s Hes Os) as [-> _]. rewrite Rplus_0_l, rnd_id by assumption. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - assert (Hwt : well f t) by exact Hwell.
    assert (Hek := He k (or_introl eq_refl)). assert (Hpk := Hp k (or_introl eq_refl)).
    assert (Het := fun k' H => He k' (or_intror H)).
    destruct (IHt Hwt (fun k' H => Hp k' (or_intror H)) Het) as [At Bt].
    assert (Ht := run_number f bits_pos choice p t Hwt).
    change (exact p (Fma k t)) with (p k + exact p t). change (centre c (Fma k t)) with (c k + centre c t).
    change (carried q (Fma k t)) with (q k + carried q t). cbn [Model.run running]. unfold node_error.
    split.
    2: { replace (p k + exact p t - (c k + centre c t)) with ((p k - c k) + (exact p t - centre c t)) by ring.
         eapply Rle_trans. apply Rabs_triang. lra. }
    assert (Hl := leaf_error_nonneg k). assert (Hr := running_nonneg t).
    replace (rnd (p k + run t) - (p k + exact p t)) with ((rnd (p k + run t) - (p k + run t)) + (run t - exact p t)) by ring.
    eapply Rle_trans. apply Rabs_triang.
    destruct (orb (nonzero (c k)) (nonzero (q k))) eqn:Ok.
    2: { rewrite (silent_product k Hek Ok). rewrite Rplus_0_l, rnd_id by assumption. unfold Rminus at 1. rewrite Rplus_opp_r, Rabs_R0. simpl. lra. }
    destruct (occupied t) eqn:Ot.
    2: { destruct (silent t Het Ot) as [E _]. rewrite E in *. rewrite Rplus_0_r. simpl. assert (L := leaf_bound k Hpk Hek). lra. }
    simpl. match goal with |- _ <= _ + u * ufp ?m => set (mm := m) end.
    assert (Hm : Rabs (p k + run t) <= Rabs mm).
    { eapply Rle_trans with (2 := Rle_abs _). unfold mm.
      replace (p k + run t) with ((c k + centre c t) + ((p k - c k) + (exact p t - centre c t) + (run t - exact p t))) by ring.
      eapply Rle_trans. apply Rabs_triang.
      assert (T2 := Rabs_triang (p k - c k + (exact p t - centre c t)) (run t - exact p t)).
      assert (T3 := Rabs_triang (p k - c k) (exact p t - centre c t)).
      assert (T1 := Rabs_triang (exact p t - centre c t) (run t - exact p t)). lra. }
    assert (U : 0 <= u * ufp mm) by (apply Rmult_le_pos; [lra|apply ufp_ge_0]).
    destruct (Rlt_le_dec (Rabs (p k + run t)) (smallest_normal f)) as [H|H].
    + destruct (proj2 Hpk) as [Hn|Hn].
      * rewrite small_fused_exact by assumption. unfold Rminus at 1. rewrite Rplus_opp_r, Rabs_R0. lra.
      * assert (E := subnormal_error f bits_pos choice _ H).
        assert (h <= leaf_error k).
        { unfold leaf_error. rewrite Ok. assert (0 <= r * (Rabs (c k) + q k)); [|lra]. apply Rmult_le_pos; [assumption|].
          generalize (Rabs_pos (c k)) (q_nonneg k). lra. }
        lra.
    + assert (E := normal_error f bits_pos choice _ H). assert (M := Rmult_le_compat_l u _ _ (Rlt_le _ _ Hu) (ufp_monotone _ _ Hm)). lra.
Qed.

End Named.

(** Factors that every run has exactly: all that runs choose is what is fused. *)
Section Known.

Variable f : format.
Hypothesis bits_pos : (0 < bits f)%Z.
Variable choice : Z -> bool.
Variable p : nat -> R.
Notation rnd := (RN f choice).

Fixpoint low (t : tree) : R :=
  match t with
  | Term b => b
  | Prod k => Rmin (p k) (rnd (p k))
  | Add s t => rnd (low s + low t)
  | Fma k t => rnd (Rmin (p k) (rnd (p k)) + low t)
  end.

Fixpoint high (t : tree) : R :=
  match t with
  | Term b => b
  | Prod k => Rmax (p k) (rnd (p k))
  | Add s t => rnd (high s + high t)
  | Fma k t => rnd (Rmax (p k) (rnd (p k)) + high t)
  end.

Lemma ends_fused : forall k t, low (Fma k t) = low (Add (Prod k) t) /\ high (Fma k t) = high (Add (Prod k) t).
Proof. split; reflexivity. Qed.

Theorem known_tree : forall t, low t <= Model.run rnd p t <= high t.
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; cbn [low high Model.run].
  - lra.
  - split; [apply Rmin_r | apply Rmax_r].
  - split; apply rnd_monotone; try assumption; lra.
  - generalize (Rmin_l (p k) (rnd (p k))) (Rmax_l (p k) (rnd (p k))). split; apply rnd_monotone; try assumption; lra.
Qed.

End Known.
