(** ReLU, maxima, products and quotients of enclosures, and the lines around nonlinear operators: theorems 8, 11 and 17 of bounds.md. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From Flocq Require Import Core.
From PrecisionKit Require Import Model Rounding.
Open Scope R_scope.

Ltac cases := unfold relu, Rmax, Rmin, Rabs in *; repeat match goal with
  | |- context [Rle_dec ?a ?b] => destruct (Rle_dec a b) | H : context [Rle_dec ?a ?b] |- _ => destruct (Rle_dec a b)
  | |- context [Rcase_abs ?a] => destruct (Rcase_abs a) | H : context [Rcase_abs ?a] |- _ => destruct (Rcase_abs a) end.

(** ** No rounding *)

Theorem relu_exact : forall f t, number f t -> number f (relu t).
Proof. intros. unfold relu, Rmax. destruct Rle_dec; [assumption | apply generic_format_0]. Qed.

Theorem relu_commutes : forall f choice t, (0 < bits f)%Z -> relu (RN f choice t) = RN f choice (relu t).
Proof.
  intros f choice t Hf. unfold relu, Rmax at 2. destruct (Rle_dec 0 t) as [H|H].
  - apply Rmax_right. rewrite <- (rnd_0 f choice). apply rnd_monotone; assumption.
  - rewrite rnd_0. apply Rmax_left. rewrite <- (rnd_0 f choice). apply rnd_monotone; [assumption | lra].
Qed.

Theorem relu_lipschitz : forall s t, Rabs (relu s - relu t) <= Rabs (s - t).
Proof. intros. cases; lra. Qed.

(** Over an enclosure: within e of the image of the centre, and between the images of the ends. *)
Theorem relu_enclosure : forall c e x, Rabs (x - c) <= e ->
  Rabs (relu x - relu c) <= Rmin e (Rmax (relu (c + e) - relu c) (relu c - relu (c - e))).
Proof. intros. cases; lra. Qed.

(** The secant: exact, where the gradient is not. *)
Theorem relu_secant : forall c d, exists s, 0 <= s <= 1 /\ relu (c + d) - relu c = s * d /\
  (0 <= c -> 0 <= c + d -> s = 1) /\ (c < 0 -> c + d < 0 -> s = 0).
Proof.
  intros c d. destruct (Req_EM_T d 0) as [->|Hd].
  - destruct (Rlt_le_dec c 0).
    + exists 0. repeat split; try lra. cases; lra.
    + exists 1. repeat split; try lra. cases; lra.
  - exists ((relu (c + d) - relu c) / d). repeat split.
    + destruct (Rtotal_order d 0) as [H|[H|H]]; [|lra|].
      * apply Rmult_le_reg_r with (- d); [lra|]. unfold Rdiv. replace ((relu (c + d) - relu c) * / d * - d) with (relu c - relu (c + d)) by (field; assumption).
        cases; lra.
      * apply Rmult_le_reg_r with d; [lra|]. unfold Rdiv. replace ((relu (c + d) - relu c) * / d * d) with (relu (c + d) - relu c) by (field; assumption).
        cases; lra.
    + destruct (Rtotal_order d 0) as [H|[H|H]]; [|lra|].
      * apply Rmult_le_reg_r with (- d); [lra|]. unfold Rdiv. replace ((relu (c + d) - relu c) * / d * - d) with (relu c - relu (c + d)) by (field; assumption).
        cases; lra.
      * apply Rmult_le_reg_r with d; [lra|]. unfold Rdiv. replace ((relu (c + d) - relu c) * / d * d) with (relu (c + d) - relu c) by (field; assumption).
        cases; lra.
    + field. assumption.
    + intros H1 H2. replace (relu (c + d) - relu c) with d by (cases; lra). field. assumption.
    + intros H1 H2. replace (relu (c + d) - relu c) with 0 by (cases; lra). field. assumption.
Qed.

(** ** Maxima *)

Fixpoint maximum (x : nat -> R) (n : nat) : R :=
  match n with O => x O | S m => Rmax (maximum x m) (x (S m)) end.

Lemma maximum_ge : forall x n j, (j <= n)%nat -> x j <= maximum x n.
Proof.
  induction n; intros j Hj; simpl.
  - replace j with O by lia. lra.
  - destruct (Nat.eq_dec j (S n)) as [->|H]; [apply Rmax_r | eapply Rle_trans with (2 := Rmax_l _ _); apply IHn; lia].
Qed.

Lemma maximum_attained : forall x n, exists j, (j <= n)%nat /\ maximum x n = x j.
Proof.
  induction n; simpl.
  - exists O. auto.
  - destruct IHn as [j [Hj E]]. unfold Rmax. destruct Rle_dec.
    + exists (S n). auto.
    + exists j. auto.
Qed.

Lemma maximum_le : forall x n m, (forall j, (j <= n)%nat -> x j <= m) -> maximum x n <= m.
Proof. intros x n m H. destruct (maximum_attained x n) as [j [Hj ->]]. auto. Qed.

Theorem maximum_exact : forall f x n, (forall j, (j <= n)%nat -> number f (x j)) -> number f (maximum x n).
Proof. intros f x n H. destruct (maximum_attained x n) as [j [Hj ->]]. auto. Qed.

Theorem maximum_lipschitz : forall x c e n, (forall j, (j <= n)%nat -> Rabs (x j - c j) <= e) -> Rabs (maximum x n - maximum c n) <= e.
Proof.
  intros x c e n H. apply Rabs_le.
  destruct (maximum_attained x n) as [i [Hi Ei]]. destruct (maximum_attained c n) as [j [Hj Ej]].
  generalize (maximum_ge x n j Hj) (maximum_ge c n i Hi) (Rabs_le_inv _ _ (H i Hi)) (Rabs_le_inv _ _ (H j Hj)). lra.
Qed.

(** The lines of a maximum, with s the selected entry. *)
Theorem maximum_lines : forall x c e n s a, (s <= n)%nat -> (forall j, (j <= n)%nat -> c j <= c s) ->
  (forall j, (j <= n)%nat -> Rabs (x j - c j) <= e j) ->
  (forall j, (j <= n)%nat -> j <> s -> (c j + e j) - (c s - e s) <= a) -> 0 <= a ->
  x s - c s <= maximum x n - maximum c n <= (x s - c s) + a.
Proof.
  intros x c e n s a Hs Hc He Ha Ha0.
  assert (E : maximum c n = c s) by (apply Rle_antisym; [apply maximum_le; assumption | apply maximum_ge; assumption]).
  rewrite E. split.
  - generalize (maximum_ge x n s Hs). lra.
  - assert (maximum x n <= x s + a); [|lra]. apply maximum_le. intros j Hj. destruct (Nat.eq_dec j s) as [->|H]; [lra|].
    generalize (Ha j Hj H) (Rabs_le_inv _ _ (He j Hj)) (Rabs_le_inv _ _ (He s Hs)). lra.
Qed.

Theorem maximum_constant_line : forall x c e n a, (forall j, (j <= n)%nat -> Rabs (x j - c j) <= e j) ->
  (forall j, (j <= n)%nat -> (c j + e j) - maximum c n <= a) -> maximum x n - maximum c n <= a.
Proof.
  intros x c e n a He Ha. assert (maximum x n <= maximum c n + a); [|lra]. apply maximum_le. intros j Hj.
  generalize (Ha j Hj) (Rabs_le_inv _ _ (He j Hj)). lra.
Qed.

(** ** Lines around ReLU *)

(** Any slope in [0, 1], with the larger excess at the two ends: [relu] is convex, so the excess is largest at an end. *)
Theorem relu_upper_line : forall c l h s d, 0 <= s <= 1 -> l <= c + d <= h ->
  relu (c + d) - relu c <= s * d + Rmax (relu l - relu c - s * (l - c)) (relu h - relu c - s * (h - c)).
Proof.
  intros c l h s d Hs Hd. set (y := c + d) in *. replace d with (y - c) by (unfold y; ring).
  assert (relu y - s * y <= Rmax (relu l - s * l) (relu h - s * h)).
  { unfold relu, Rmax at 1. destruct (Rle_dec 0 y) as [Hy|Hy].
    - eapply Rle_trans with (2 := Rmax_r _ _). unfold Rmax. destruct Rle_dec; [|lra].
      assert (0 <= (1 - s) * (h - y)) by (apply Rmult_le_pos; lra). lra.
    - eapply Rle_trans with (2 := Rmax_l _ _). unfold Rmax. destruct Rle_dec; [lra|].
      assert (0 <= s * (y - l)) by (apply Rmult_le_pos; lra). lra. }
  revert H. unfold Rmax at 1 2. destruct (Rle_dec (relu l - s * l)); destruct Rle_dec; lra.
Qed.

(** From below, the line through the centre's own side touches at the centre. *)
Theorem relu_lower_line : forall c d, (0 < c -> d <= relu (c + d) - relu c) /\ (c <= 0 -> 0 <= relu (c + d) - relu c).
Proof. intros c d. split; intros; cases; lra. Qed.

(** [Lines.under]: how far the upper line's slope can exceed. *)
Theorem relu_under : forall c s d, 0 <= s <= 1 -> s * d - (relu (c + d) - relu c) <= (if Rlt_dec 0 c then (1 - s) * c else - s * c).
Proof.
  intros c s d Hs. destruct (Rlt_dec 0 c) as [Hc|Hc].
  - unfold relu, Rmax. destruct (Rle_dec 0 (c + d)); destruct (Rle_dec 0 c); try lra.
    + assert (0 <= (1 - s) * (c + d)) by (apply Rmult_le_pos; lra). lra.
    + assert (0 <= s * (- (c + d))) by (apply Rmult_le_pos; lra). lra.
  - unfold relu, Rmax. destruct (Rle_dec 0 (c + d)); destruct (Rle_dec 0 c).
    + assert (c = 0) by lra. subst c. assert (0 <= (1 - s) * (0 + d)) by (apply Rmult_le_pos; lra). lra.
    + assert (0 <= (1 - s) * (c + d)) by (apply Rmult_le_pos; lra). lra.
    + assert (c = 0) by lra. subst c. assert (0 <= s * (- (0 + d))) by (apply Rmult_le_pos; lra). lra.
    + assert (0 <= s * (- (c + d))) by (apply Rmult_le_pos; lra). lra.
Qed.

(** A certain sign makes ReLU linear. *)
Theorem relu_certain : forall c d l h, l <= c + d <= h -> l <= c <= h ->
  (0 <= l -> relu (c + d) - relu c = d) /\ (h <= 0 -> relu (c + d) - relu c = 0).
Proof. intros. split; intros; cases; lra. Qed.

(** The zonotope's step: slope [h / (h - l)], a new symbol of half the offset. *)
Theorem relu_zonotope : forall l h y, l < 0 < h -> l <= y <= h ->
  let s := h / (h - l) in Rabs (relu y - (s * y - s * l / 2)) <= - (s * l) / 2.
Proof.
  intros l h y Hlh Hy s.
  assert (Hs : s * (h - l) = h) by (unfold s; field; lra).
  assert (H0 : 0 <= s) by (unfold s; apply Rlt_le, Rdiv_lt_0_compat; lra).
  assert (H1 : s <= 1) by (apply Rmult_le_reg_r with (h - l); lra).
  apply Rabs_le. unfold relu, Rmax. destruct Rle_dec as [Hp|Hp].
  - assert (0 <= (1 - s) * y) by (apply Rmult_le_pos; lra).
    assert (0 <= (1 - s) * (h - y)) by (apply Rmult_le_pos; lra). lra.
  - assert (0 <= s * (- y)) by (apply Rmult_le_pos; lra).
    assert (0 <= s * (y - l)) by (apply Rmult_le_pos; lra). lra.
Qed.

(** Theorem 17's inequality: a functional of a nonlinear operator between lines of its deviation. *)
Theorem between_lines : forall g v d lower upper below above,
  lower * d - below <= v <= upper * d + above ->
  g * v <= (Rmax 0 g * upper - Rmax 0 (- g) * lower) * d + Rmax 0 g * above + Rmax 0 (- g) * below.
Proof.
  intros g v d lower upper below above [H1 H2]. unfold Rmax. destruct (Rle_dec 0 g); destruct (Rle_dec 0 (- g)).
  - replace g with 0 by lra. lra.
  - assert (g * v <= g * (upper * d + above)) by (apply Rmult_le_compat_l; assumption). lra.
  - assert (- g * (lower * d - below) <= - g * v) by (apply Rmult_le_compat_l; assumption). lra.
  - lra.
Qed.

(** ** Products and quotients *)

Theorem product_enclosure : forall a b a' b' ea eb, Rabs (a' - a) <= ea -> Rabs (b' - b) <= eb ->
  Rabs (a' * b' - a * b) <= Rabs a * eb + Rabs b * ea + ea * eb /\ Rabs (a' * b' - a * b - ((a' - a) * b + a * (b' - b))) <= ea * eb.
Proof.
  intros a b a' b' ea eb Ha Hb. assert (Ea := Rabs_pos (a' - a)). assert (Eb := Rabs_pos (b' - b)).
  assert (P : Rabs ((a' - a) * (b' - b)) <= ea * eb) by (rewrite Rabs_mult; apply Rmult_le_compat; assumption).
  split.
  - replace (a' * b' - a * b) with (a * (b' - b) + b * (a' - a) + (a' - a) * (b' - b)) by ring.
    eapply Rle_trans. apply Rabs_triang. apply Rplus_le_compat; [|exact P].
    eapply Rle_trans. apply Rabs_triang. rewrite !Rabs_mult.
    apply Rplus_le_compat; apply Rmult_le_compat_l; try apply Rabs_pos; assumption.
  - replace (a' * b' - a * b - ((a' - a) * b + a * (b' - b))) with ((a' - a) * (b' - b)) by ring. exact P.
Qed.

Theorem quotient_enclosure : forall a b a' b' ea eb, Rabs (a' - a) <= ea -> Rabs (b' - b) <= eb -> eb < Rabs b ->
  b' <> 0 /\ Rabs (a' / b' - a / b) <= (ea + Rabs (a / b) * eb) / (Rabs b - eb).
Proof.
  intros a b a' b' ea eb Ha Hb Hlt. assert (Eb := Rabs_pos (b' - b)).
  assert (B : Rabs b - eb <= Rabs b').
  { assert (T := Rabs_triang_inv b (b - b')). replace (b - (b - b')) with b' in T by ring. rewrite (Rabs_minus_sym b b') in T. lra. }
  assert (Nb' : b' <> 0) by (intros ->; rewrite Rabs_R0 in B; lra).
  assert (Nb : b <> 0) by (intros ->; rewrite Rabs_R0 in Hlt; lra).
  split; [exact Nb'|].
  replace (a' / b' - a / b) with (((a' - a) - a / b * (b' - b)) / b') by (field; split; assumption).
  unfold Rdiv at 1. rewrite Rabs_mult, Rabs_inv.
  assert (N : Rabs (a' - a - a / b * (b' - b)) <= ea + Rabs (a / b) * eb).
  { unfold Rminus at 1. eapply Rle_trans. apply Rabs_triang. rewrite Rabs_Ropp, Rabs_mult.
    apply Rplus_le_compat; [exact Ha|]. apply Rmult_le_compat_l; [apply Rabs_pos | exact Hb]. }
  apply Rmult_le_compat.
  - apply Rabs_pos.
  - left. apply Rinv_0_lt_compat. apply Rabs_pos_lt; exact Nb'.
  - exact N.
  - apply Rinv_le_contravar; lra.
Qed.
