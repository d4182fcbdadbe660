(** The margin lemma, repaired: theorem 13 of bounds.md. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From Flocq Require Import Core.
From PrecisionKit Require Import Model Rounding.
Open Scope R_scope.

(** ** The loop finds the first index of the maximum *)

Lemma argmax_spec : forall z n, (0 < n)%nat -> first_argmax z n (argmax z n).
Proof.
  intros z. induction n as [|m IH]; intros Hn; [lia|].
  destruct m as [|m'].
  - simpl. repeat split; intros; lia.
  - change (argmax z (S (S m'))) with (let c := argmax z (S m') in if Rlt_dec (z c) (z (S m')) then S m' else c). cbv zeta.
    destruct (IH ltac:(lia)) as [Hc [Hb Ha]]. set (c := argmax z (S m')) in *.
    destruct Rlt_dec as [H|H].
    + repeat split; intros; try lia.
      destruct (Nat.lt_trichotomy j c) as [L|[->|L]]; [|exact H|].
      * specialize (Hb j L). lra.
      * specialize (Ha j ltac:(lia)). lra.
    + repeat split; intros; try lia.
      * apply Hb; assumption.
      * destruct (Nat.eq_dec j (S m')) as [->|]; [lra | apply Ha; lia].
Qed.

Lemma first_argmax_unique : forall z n c d, first_argmax z n c -> first_argmax z n d -> c = d.
Proof.
  intros z n c d [Hc [Hcb Hca]] [Hd [Hdb Hda]].
  destruct (Nat.lt_trichotomy c d) as [L|[E|L]]; [|exact E|].
  - specialize (Hdb c L). specialize (Hca d ltac:(lia)). lra.
  - specialize (Hcb d L). specialize (Hda c ltac:(lia)). lra.
Qed.

Lemma argmax_iff : forall z n c, (0 < n)%nat -> (first_argmax z n c <-> argmax z n = c).
Proof.
  intros. split; intros H0.
  - apply first_argmax_unique with z n; [apply argmax_spec|]; assumption.
  - subst c. apply argmax_spec; assumption.
Qed.

(** ** Gaps *)

Theorem gaps_keep_argmax : forall z n c, (c < n)%nat ->
  (forall j, (j < c)%nat -> 0 < z c - z j) -> (forall j, (c < j < n)%nat -> 0 <= z c - z j) -> argmax z n = c.
Proof.
  intros z n c Hc Hb Ha. apply argmax_iff; [lia|]. repeat split; [assumption| |]; intros j Hj.
  - specialize (Hb j Hj). lra.
  - specialize (Ha j Hj). lra.
Qed.

(** Pairwise, with the tie rule: [e j] bounds how far the gap to j can move. *)
Theorem pairwise : forall z z' e n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs ((z' c - z' j) - (z c - z j)) <= e j) ->
  (forall j, (j < c)%nat -> z c - z j > e j) -> (forall j, (c < j < n)%nat -> z c - z j >= e j) ->
  argmax z' n = c.
Proof.
  intros z z' e n c Hc He Hb Ha. apply gaps_keep_argmax; [assumption| |]; intros j Hj.
  - specialize (Hb j Hj). specialize (He j ltac:(lia)). apply Rabs_def2b in He || apply Rabs_le_inv in He. lra.
  - specialize (Ha j Hj). specialize (He j ltac:(lia)). apply Rabs_le_inv in He. lra.
Qed.

(** Two programs with centres of their own. *)
Theorem both_programs : forall z1 z2 g1 g2 e1 e2 n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs ((z1 c - z1 j) - g1 j) <= e1 j) ->
  (forall j, (j < n)%nat -> Rabs ((z2 c - z2 j) - g2 j) <= e2 j) ->
  (forall j, (j < c)%nat -> Rmin (g1 j - e1 j) (g2 j - e2 j) > 0) ->
  (forall j, (c < j < n)%nat -> Rmin (g1 j - e1 j) (g2 j - e2 j) >= 0) ->
  argmax z1 n = c /\ argmax z2 n = c.
Proof.
  intros z1 z2 g1 g2 e1 e2 n c Hc H1 H2 Hb Ha. split; apply gaps_keep_argmax; try assumption; intros j Hj.
  - specialize (Hb j Hj). specialize (H1 j ltac:(lia)). apply Rabs_le_inv in H1. generalize (Rmin_l (g1 j - e1 j) (g2 j - e2 j)). lra.
  - specialize (Ha j Hj). specialize (H1 j ltac:(lia)). apply Rabs_le_inv in H1. generalize (Rmin_l (g1 j - e1 j) (g2 j - e2 j)). lra.
  - specialize (Hb j Hj). specialize (H2 j ltac:(lia)). apply Rabs_le_inv in H2. generalize (Rmin_r (g1 j - e1 j) (g2 j - e2 j)). lra.
  - specialize (Ha j Hj). specialize (H2 j ltac:(lia)). apply Rabs_le_inv in H2. generalize (Rmin_r (g1 j - e1 j) (g2 j - e2 j)). lra.
Qed.

(** The margin of the reference against the bound that reports print. *)
Theorem margin_exceeds_bound : forall z1 z2 g1 g2 e1 e2 n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs ((z1 c - z1 j) - g1 j) <= e1 j) ->
  (forall j, (j < n)%nat -> Rabs ((z2 c - z2 j) - g2 j) <= e2 j) ->
  (forall j, (j < n)%nat -> j <> c -> g1 j > e1 j + Rabs (g2 j - g1 j) + e2 j) ->
  argmax z1 n = c /\ argmax z2 n = c.
Proof.
  intros z1 z2 g1 g2 e1 e2 n c Hc H1 H2 H. assert (G : forall j, (j < n)%nat -> j <> c -> Rmin (g1 j - e1 j) (g2 j - e2 j) > 0).
  { intros j Hj Hjc. specialize (H j Hj Hjc). specialize (H1 j Hj). specialize (H2 j Hj).
    generalize (Rabs_pos (g2 j - g1 j)) (Rle_abs (- (g2 j - g1 j))) (Rabs_pos (z1 c - z1 j - g1 j)) (Rabs_pos (z2 c - z2 j - g2 j)).
    rewrite Rabs_Ropp. intros. unfold Rmin. destruct Rle_dec; lra. }
  apply both_programs with g1 g2 e1 e2; try assumption; intros j Hj.
  - apply G; lia.
  - apply Rgt_ge, G; lia.
Qed.

(** In the sup-norm: the strict inequality suffices for every tie rule, ... *)
Theorem sup_norm : forall z z' d n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs (z' j - z j) <= d) ->
  (forall j, (j < n)%nat -> j <> c -> z c - z j > 2 * d) ->
  argmax z n = c /\ argmax z' n = c /\ forall j, (j < n)%nat -> j <> c -> z' j < z' c.
Proof.
  intros z z' d n c Hc Hd Hg.
  assert (Hd0 : 0 <= d) by (generalize (Hd c Hc) (Rabs_pos (z' c - z c)); lra).
  assert (S : forall j, (j < n)%nat -> j <> c -> z' j < z' c).
  { intros j Hj Hjc. specialize (Hg j Hj Hjc). generalize (Rabs_le_inv _ _ (Hd j Hj)) (Rabs_le_inv _ _ (Hd c Hc)). lra. }
  repeat split; [| |exact S].
  - apply gaps_keep_argmax; [assumption| |]; intros j Hj; specialize (Hg j ltac:(lia) ltac:(lia)); lra.
  - apply gaps_keep_argmax; [assumption| |]; intros j Hj; specialize (S j ltac:(lia) ltac:(lia)); lra.
Qed.

(** ... equality where the class stands before all that can tie with it. *)
Theorem sup_norm_tie_rule : forall z z' d n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs (z' j - z j) <= d) ->
  (forall j, (j < c)%nat -> z c - z j > 2 * d) -> (forall j, (c < j < n)%nat -> z c - z j >= 2 * d) ->
  argmax z' n = c.
Proof.
  intros z z' d n c Hc Hd Hb Ha. apply gaps_keep_argmax; [assumption| |]; intros j Hj.
  - specialize (Hb j Hj). generalize (Rabs_le_inv _ _ (Hd j ltac:(lia))) (Rabs_le_inv _ _ (Hd c Hc)). lra.
  - specialize (Ha j Hj). generalize (Rabs_le_inv _ _ (Hd j ltac:(lia))) (Rabs_le_inv _ _ (Hd c Hc)). lra.
Qed.

(** ** The published condition is false, at every positive discrepancy *)

Definition pair (a b : R) (k : nat) : R := match k with O => a | _ => b end.

Theorem published_lemma_false : forall d, 0 < d ->
  let z := pair 0 (2 * d) in let z' := pair d d in
  (forall j, (j < 2)%nat -> Rabs (z' j - z j) <= d) /\ z 1%nat - z 0%nat >= 2 * d /\ argmax z 2 = 1%nat /\ argmax z' 2 = 0%nat.
Proof.
  intros d Hd z z'. repeat split.
  - intros [|[|j]] Hj; [| |lia]; unfold z, z', pair; apply Rabs_le; lra.
  - unfold z, pair. lra.
  - apply gaps_keep_argmax; [lia| |lia]. intros [|j] Hj; [|lia]. unfold z, pair. lra.
  - apply gaps_keep_argmax; [lia|lia|]. intros [|[|j]] Hj; try lia. unfold z', pair. lra.
Qed.

(** The factor 2 cannot be lowered: any smaller gap is lost to a perturbation of at most [d]. *)
Theorem factor_two_is_sharp : forall d e, 0 < e < 2 * d ->
  let z := pair 0 (2 * d - e) in let z' := pair d (d - e) in
  (forall j, (j < 2)%nat -> Rabs (z' j - z j) <= d) /\ z 1%nat - z 0%nat = 2 * d - e /\ argmax z 2 = 1%nat /\ z' 1%nat < z' 0%nat.
Proof.
  intros d e He z z'. repeat split.
  - intros [|[|j]] Hj; [| |lia]; unfold z, z', pair; apply Rabs_le; lra.
  - unfold z, pair. lra.
  - apply gaps_keep_argmax; [lia| |lia]. intros [|j] Hj; [|lia]. unfold z, pair. lra.
  - unfold z', pair. lra.
Qed.

(** ** The inequality in floating point *)

(** Strictly, for any rounding and any number on the right: sound. *)
Theorem strict_test_sound : forall f rnd, (0 < bits f)%Z -> Valid_rnd rnd -> forall t a b, number f t ->
  round radix2 (FLT_exp (least f) (bits f)) rnd (a - b) > t -> a - b > t.
Proof.
  intros f rnd Hf Hrnd t a b Ht H. apply Rnot_le_gt. intros H1. apply (Rgt_not_le _ _ H).
  assert (Prec_gt_0 (bits f)) by exact Hf. apply round_le_generic; auto. apply FLT_exp_valid. exact Hf.
Qed.

(** Not so with equality: binary16, a = 2048, b = 1/4 and the threshold 2048, whatever the rule for ties. *)
Theorem test_with_equality_unsound : forall choice, exists a b t,
  number binary16 a /\ number binary16 b /\ number binary16 t /\ RN binary16 choice (a - b) >= t /\ a - b < t.
Proof.
  intros choice. exists 2048, (/ 4), 2048.
  assert (Hp : (0 < bits binary16)%Z) by reflexivity.
  assert (N1 : number binary16 2048) by (change 2048 with (bpow radix2 11); apply generic_format_bpow; vm_compute; congruence).
  assert (N2 : number binary16 (/ 4)) by (change (/ 4) with (bpow radix2 (-2)); apply generic_format_bpow; vm_compute; congruence).
  repeat split; try assumption; [|lra].
  apply Rle_ge, Rnot_lt_le. intros H.
  assert (V : Valid_exp (FLT_exp (least binary16) (bits binary16))) by (apply FLT_exp_valid; exact Hp).
  assert (P : RN binary16 choice (2048 - / 4) <= 2047).
  { replace 2047 with (pred radix2 (FLT_exp (least binary16) (bits binary16)) 2048).
    - apply pred_ge_gt; try assumption. apply rnd_number. exact Hp.
    - change 2048 with (bpow radix2 11). rewrite pred_bpow by exact V. simpl. lra. }
  assert (D := rnd_nearest binary16 Hp choice (2048 - / 4) 2048 N1).
  rewrite (Rabs_right (2048 - (2048 - / 4))) in D by lra.
  generalize (Rle_abs (- (RN binary16 choice (2048 - / 4) - (2048 - / 4)))). rewrite Rabs_Ropp. lra.
Qed.

(** What [least_gaps] returns has the sign of the exact least gap. *)
Theorem least_gap_positive : forall f choice, (0 < bits f)%Z -> forall g e, number f g -> number f e ->
  (0 < RN f choice (g - e) <-> 0 < g - e) /\ (0 <= RN f choice (g - e) <-> 0 <= g - e).
Proof.
  intros f choice Hf g e Hg He. rewrite difference_positive, difference_nonnegative by assumption. split; split; lra.
Qed.
