(** The premises can be met. *)
From Coq Require Import Reals ZArith List Lia Lra Permutation.
From Flocq Require Import Core.
From PrecisionKit Require Import Model Rounding Dot Products TensorCore Relax Margin Network Zonotope.
Import ListNotations.
Open Scope R_scope.

Definition half_single : arithmetic := Arithmetic binary16 binary32 binary32 0 0.

Definition two_scores (i : nat) : node :=
  match i with O => Input 1 | 1%nat => Dot [0%nat] (fun _ => 1) [] | _ => Dot [0%nat] (fun _ => -1) [] end.

Definition centre_of (i : nat) : R := match i with O => 1 | 1%nat => 1 | _ => -1 end.
Definition radius_of (i : nat) : R := match i with O => 0 | _ => / 2 end.

Lemma unit_number : forall f s, (0 < bits f)%Z -> (least f <= - bits f)%Z -> s = 1 \/ s = -1 -> number f s.
Proof.
  intros f s Hb Hl Hs. assert (N : number f 1) by (change 1 with (bpow radix2 0); apply generic_format_bpow; unfold FLT_exp; lia).
  destruct Hs as [->| ->]; [exact N|]. replace (-1) with (- (1)) by ring. apply generic_format_opp. exact N.
Qed.

Lemma score_local : forall s, s = 1 \/ s = -1 -> dot_carried radius_of [0%nat] (fun _ => s) = 0 /\
  dot_carried radius_of [0%nat] (fun _ => s) + (dot_fresh half_single centre_of radius_of [0%nat] (fun _ => s) []
   + store_error binary16 (Rabs s + dot_carried radius_of [0%nat] (fun _ => s) + dot_fresh half_single centre_of radius_of [0%nat] (fun _ => s) [])) <= / 2.
Proof.
  intros s Hs. assert (C : dot_carried radius_of [0%nat] (fun _ => s) = 0) by (unfold dot_carried; simpl; ring).
  split; [exact C|]. rewrite C.
  assert (F : dot_fresh half_single centre_of radius_of [0%nat] (fun _ => s) [] = 0).
  { unfold dot_fresh. simpl. rewrite !Rmult_0_l, !Rmult_0_r, !Rplus_0_l. unfold Rmin. destruct Rle_dec; ring. }
  rewrite F, !Rplus_0_r, Rplus_0_l, Rplus_0_l. assert (A : Rabs s = 1) by (destruct Hs as [->| ->]; unfold Rabs; destruct Rcase_abs; lra).
  rewrite A. unfold store_error. apply Rmax_lub.
  - assert (U := unit_le_half binary16 eq_refl). assert (V := ufp_le 1). assert (W := ufp_ge_0 1). rewrite Rabs_R1 in V.
    assert (P := unit_pos binary16). apply Rle_trans with (/ 2 * 1); [apply Rmult_le_compat; lra | lra].
  - unfold eta. change (/ 2) with (bpow radix2 (-1)). apply bpow_le. simpl. lia.
Qed.

Lemma score_runs : forall choice s, s = 1 \/ s = -1 ->
  exists t, Permutation (prods t) [0%nat] /\ Permutation (terms t) [] /\
    (forall k, In k [0%nat] -> product_error binary32 choice 0 0 (s * centre_of k)) /\
    s = RN binary16 choice (run (RN binary32 choice) (fun k => s * centre_of k) t).
Proof.
  intros choice s Hs. exists (Prod 0). split; [apply Permutation_refl|]. split; [apply Permutation_refl|]. split.
  - intros k [<-|[]]. simpl. apply (product_rule_exact binary16 binary32); try reflexivity; try (simpl; lia).
    + apply unit_number; simpl; try lia. exact Hs.
    + apply unit_number; simpl; try lia. left; reflexivity.
  - simpl. rewrite Rmult_1_r. rewrite (rnd_id binary32) by (apply unit_number; simpl; try lia; exact Hs).
    rewrite (rnd_id binary16) by (apply unit_number; simpl; try lia; exact Hs). reflexivity.
Qed.

Theorem two_scores_certified : forall choice,
  (forall i, (i < 3)%nat -> ordered half_single two_scores i /\ centre_of i = exactly two_scores centre_of i
     /\ runs half_single choice two_scores centre_of i
     /\ carried_by two_scores centre_of radius_of i + local_error half_single two_scores centre_of radius_of i <= radius_of i)
  /\ (forall j, (j < 2)%nat -> j <> 0%nat -> centre_of (S 0) - centre_of (S j) > radius_of (S 0) + radius_of (S j)).
Proof.
  intros choice. split.
  - intros [|[|[|i]]] Hi; [| | |lia].
    + repeat split; unfold carried_by, local_error; simpl; try lra.
    + destruct (score_local 1 (or_introl eq_refl)) as [_ L]. split; [|split; [|split]].
      * unfold ordered. simpl. split; [apply NoDup_cons; [intros [] | apply NoDup_nil]|]. split; [constructor; [lia | constructor] | constructor].
      * unfold exactly. simpl. ring.
      * exact (score_runs choice 1 (or_introl eq_refl)).
      * exact L.
    + destruct (score_local (-1) (or_intror eq_refl)) as [_ L]. split; [|split; [|split]].
      * unfold ordered. simpl. split; [apply NoDup_cons; [intros [] | apply NoDup_nil]|]. split; [constructor; [lia | constructor] | constructor].
      * unfold exactly. simpl. ring.
      * exact (score_runs choice (-1) (or_intror eq_refl)).
      * exact L.
  - intros [|[|j]] Hj Hn; [lia| |lia]. simpl. lra.
Qed.

(** The zonotope method on the same network. *)
Definition line_of (i j : nat) : R :=
  match i with O => 0 | 1%nat => if in_dec Nat.eq_dec j [0%nat] then 1 else 0 | _ => if in_dec Nat.eq_dec j [0%nat] then -1 else 0 end.

Theorem two_scores_by_zonotope : forall choice,
  (forall i, (i < 3)%nat -> admits half_single two_scores centre_of radius_of line_of line_of radius_of radius_of i
     /\ settled half_single two_scores centre_of radius_of line_of line_of radius_of radius_of i
     /\ runs half_single choice two_scores centre_of i)
  /\ centre_of 1 - centre_of 2
     > pull line_of line_of radius_of radius_of 3 (fun k => (if Nat.eq_dec k 2 then 1 else 0) - (if Nat.eq_dec k 1 then 1 else 0)).
Proof.
  intros choice. destruct (two_scores_certified choice) as [H _]. split.
  - intros i Hi. destruct (H i Hi) as [_ [_ [R E]]]. split; [|split; [left; exact E | exact R]].
    assert (L : forall i, (i < 3)%nat -> i <> 0%nat -> local_error half_single two_scores centre_of radius_of i <= radius_of i).
    { intros k Hk Hk0. destruct (H k Hk) as [_ [_ [_ G]]]. destruct k as [|[|[|k]]]; try lia.
      - destruct (score_local 1 (or_introl eq_refl)) as [C _]. unfold carried_by in G. simpl two_scores in G. cbv iota in G. rewrite C in G. lra.
      - destruct (score_local (-1) (or_intror eq_refl)) as [C _]. unfold carried_by in G. simpl two_scores in G. cbv iota in G. rewrite C in G. lra. }
    destruct i as [|[|[|i]]]; [| | |lia].
    + unfold admits. simpl. repeat split; lra.
    + unfold admits. cbn [two_scores]. split; [split; reflexivity | split; apply L; lia].
    + unfold admits. cbn [two_scores]. split; [split; reflexivity | split; apply L; lia].
  - unfold pull, cost, through, centre_of, radius_of, line_of.
    cbv beta iota delta [Nat.eq_dec nat_rec nat_rect sumbool_rec sumbool_rect in_dec list_rec list_rect].
    unfold Rmax. repeat destruct Rle_dec; repeat destruct in_dec; repeat destruct Nat.eq_dec; try lra; try lia.
Qed.

(** A step of a tensor core: one product, aligned to its own exponent. *)
Theorem one_step : let c := Step 0 [0%nat] (Given 0) in let p := fun _ : nat => 1 in
  obeys 24 (RZ binary32) (RZ binary32) p 0 c /\ positive p c <= 1 /\ negative p c <= 1 /\ nonzeros p (multiplied c) = 1%nat
  /\ (INR 1 + INR 1) * bpow radix2 (-24) + 2 * INR 1 * bpow radix2 (-23) < 1.
Proof.
  intros c p. split; [|split; [|split; [|split]]].
  - simpl. split; [exact I|]. left. exists 0%nat. split; [left; reflexivity|]. unfold p. rewrite Rabs_R1. lra.
  - simpl. unfold p, Rmax. repeat destruct Rle_dec; lra.
  - simpl. unfold p, Rmax. repeat destruct Rle_dec; lra.
  - unfold nonzeros, nonzero, p. simpl. destruct Req_EM_T; [lra | reflexivity].
  - change (bpow radix2 (-23)) with (/ IZR (2 ^ 23)). change (bpow radix2 (-24)) with (/ IZR (2 ^ 24)).
    replace (INR 1) with 1 by reflexivity. simpl. lra.
Qed.
