(** From local errors to predictions: theorems 14, 16, 17 and 13 of bounds.md, and what a certificate is worth. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz Permutation Wf_nat.
From Flocq Require Import Core.
From PrecisionKit Require Import Model Rounding Dot Relax Softmax Margin.
Import ListNotations.
Open Scope R_scope.

(** * Composition *)

(** Node i computes [f i] of the nodes before it; a run's results differ from that by at most [local i]. *)
Theorem composition : forall (f : nat -> (nat -> R) -> R) (c x e carried local : nat -> R) n,
  (forall i, (i < n)%nat -> c i = f i c) ->
  (forall i, (i < n)%nat -> (forall j, (j < i)%nat -> Rabs (x j - c j) <= e j) -> Rabs (f i x - f i c) <= carried i) ->
  (forall i, (i < n)%nat -> (forall j, (j < i)%nat -> Rabs (x j - c j) <= e j) -> Rabs (x i - f i x) <= local i) ->
  (forall i, (i < n)%nat -> carried i + local i <= e i) ->
  forall i, (i < n)%nat -> Rabs (x i - c i) <= e i.
Proof.
  intros f c x e carried local n Hc Hf Hx He. induction i as [i IH] using lt_wf_ind. intros Hi.
  assert (Hb : forall j, (j < i)%nat -> Rabs (x j - c j) <= e j) by (intros; apply IH; lia).
  replace (x i - c i) with ((x i - f i x) + (f i x - f i c)) by (rewrite <- (Hc i Hi); ring).
  eapply Rle_trans. apply Rabs_triang. generalize (Hf i Hi Hb) (Hx i Hi Hb) (He i Hi). lra.
Qed.

(** * Backward substitution *)

(** Coordinates in topological order; each lies between two lines in those before it.  [g] is pulled back from the last to the first. *)
Section Substitution.

Variables lower upper : nat -> nat -> R.
Variables below above : nat -> R.

Definition cost (i : nat) (g : R) : R := Rmax 0 g * above i + Rmax 0 (- g) * below i.
Definition through (i : nat) (g : nat -> R) (j : nat) : R := g j + (Rmax 0 (g i) * upper i j - Rmax 0 (- g i) * lower i j).

Fixpoint pull (n : nat) (g : nat -> R) : R :=
  match n with
  | O => 0
  | S i => cost i (g i) + pull i (through i g)
  end.

Variable d : nat -> R.
Variable n : nat.
Hypothesis lines : forall i, (i < n)%nat -> sum i (fun j => lower i j * d j) - below i <= d i <= sum i (fun j => upper i j * d j) + above i.

Lemma one_step : forall i g, (i < n)%nat -> sum (S i) (fun j => g j * d j) <= cost i (g i) + sum i (fun j => through i g j * d j).
Proof.
  intros i g Hi. simpl. destruct (lines i Hi) as [L U]. unfold cost, through.
  rewrite (sum_ext i (fun j => (g j + (Rmax 0 (g i) * upper i j - Rmax 0 (- g i) * lower i j)) * d j)
    (fun j => g j * d j + (Rmax 0 (g i) * (upper i j * d j) + - Rmax 0 (- g i) * (lower i j * d j)))) by (intros; ring).
  rewrite sum_plus, sum_plus, !sum_scal.
  assert (P := Rmax_l 0 (g i)). assert (Q := Rmax_l 0 (- g i)).
  assert (E : g i = Rmax 0 (g i) - Rmax 0 (- g i)) by (unfold Rmax; destruct Rle_dec; destruct Rle_dec; lra).
  assert (A := Rmult_le_compat_l _ _ _ P U). assert (B := Rmult_le_compat_l _ _ _ Q L).
  assert (g i * d i = Rmax 0 (g i) * d i - Rmax 0 (- g i) * d i) by (rewrite E at 1; ring). lra.
Qed.

Theorem substitution : forall g, sum n (fun j => g j * d j) <= pull n g.
Proof.
  assert (H : forall m g, (m <= n)%nat -> sum m (fun j => g j * d j) <= pull m g).
  { induction m as [|i IH]; intros g Hm; [simpl; lra|]. eapply Rle_trans. apply one_step; lia. cbn [pull].
    apply Rplus_le_compat_l. apply IH. lia. }
  intros g. apply H. lia.
Qed.

(** Functionals that are themselves rounded: what they are off by acts on the radii. *)
Theorem substitution_rounded : forall (g : nat -> nat -> R) (off : nat -> nat -> R) (e : nat -> R),
  (forall j, (j < n)%nat -> Rabs (d j) <= e j) ->
  (forall i j, (j < i < n)%nat -> Rabs (g i j - through i (g (S i)) j) <= off i j) ->
  sum n (fun j => g n j * d j) <= sum n (fun i => cost i (g (S i) i) + sum i (fun j => off i j * e j)).
Proof.
  intros g off e He Hg.
  assert (H : forall m, (m <= n)%nat -> sum m (fun j => g m j * d j) <= sum m (fun i => cost i (g (S i) i) + sum i (fun j => off i j * e j))).
  { induction m as [|i IH]; intros Hm; [simpl; lra|]. eapply Rle_trans. apply one_step; lia.
    change (sum (S i) (fun i0 => cost i0 (g (S i0) i0) + sum i0 (fun j => off i0 j * e j)))
      with (sum i (fun i0 => cost i0 (g (S i0) i0) + sum i0 (fun j => off i0 j * e j)) + (cost i (g (S i) i) + sum i (fun j => off i j * e j))).
    specialize (IH ltac:(lia)).
    assert (sum i (fun j => through i (g (S i)) j * d j) <= sum i (fun j => g i j * d j) + sum i (fun j => off i j * e j)); [|lra].
    rewrite <- sum_plus. apply sum_le. intros j Hj.
    assert (B : Rabs ((g i j - through i (g (S i)) j) * d j) <= off i j * e j).
    { rewrite Rabs_mult. apply Rmult_le_compat; try apply Rabs_pos. apply Hg; lia. apply He; lia. }
    apply Rabs_le_inv in B. lra. }
  apply H. lia.
Qed.

End Substitution.

(** * The adjoint, exactly *)

Section Adjoint.

Variable A : nat -> nat -> R.

(** [sum |g_i| r_i], with the functionals g pulled back; with [r] signed, [sum g_i r_i]. *)
Fixpoint adjoint (size : R -> R) (n : nat) (r g : nat -> R) : R :=
  match n with
  | O => 0
  | S i => size (g i) * r i + adjoint size i r (fun j => g j + g i * A i j)
  end.

Theorem adjoint_exact : forall n d rho, (forall i, (i < n)%nat -> d i = sum i (fun j => A i j * d j) + rho i) ->
  forall g, sum n (fun j => g j * d j) = adjoint (fun v => v) n rho g.
Proof.
  induction n as [|i IH]; intros d rho Hd g; [reflexivity|]. cbn [adjoint sum].
  rewrite <- (IH d rho) by (intros; apply Hd; lia).
  rewrite (sum_ext i (fun j => (g j + g i * A i j) * d j) (fun j => g j * d j + g i * (A i j * d j))) by (intros; ring).
  rewrite sum_plus, sum_scal. rewrite (Hd i) at 1 by lia. ring.
Qed.

Theorem adjoint_bound : forall n rho r, (forall i, (i < n)%nat -> Rabs (rho i) <= r i) ->
  forall g, Rabs (adjoint (fun v => v) n rho g) <= adjoint Rabs n r g.
Proof.
  induction n as [|i IH]; intros rho r Hr g; cbn [adjoint].
  - rewrite Rabs_R0. lra.
  - eapply Rle_trans. apply Rabs_triang. apply Rplus_le_compat.
    + rewrite Rabs_mult. apply Rmult_le_compat_l; [apply Rabs_pos | apply Hr; lia].
    + apply IH. intros; apply Hr; lia.
Qed.

End Adjoint.

(** * Networks *)

(** One coordinate: an input, a dot product with a bias, ReLU, a sum of two, a maximum of two. *)
Inductive node :=
  | Input (v : R)
  | Dot (ks : list nat) (w : nat -> R) (bias : list R)
  | Relu (j : nat)
  | Sum (j k : nat)
  | Max (j k : nat).

Record arithmetic := Arithmetic {
  storage : format;
  accumulate : format;
  internal : format;
  product_roundoff : R;
  product_underflow : R }.

(** Operands come before their node; biases are numbers of the accumulator. *)
Definition ordered (a : arithmetic) (net : nat -> node) (i : nat) : Prop :=
  match net i with
  | Input _ => True
  | Dot ks _ bias => NoDup ks /\ Forall (fun k => (k < i)%nat) ks /\ Forall (number (accumulate a)) bias
  | Relu j => (j < i)%nat
  | Sum j k | Max j k => (j < i)%nat /\ (k < i)%nat
  end.

(** The network in exact arithmetic. *)
Definition exactly (net : nat -> node) (z : nat -> R) (i : nat) : R :=
  match net i with
  | Input v => v
  | Dot ks w bias => list_sum (map (fun k => w k * z k) ks) + list_sum bias
  | Relu j => relu (z j)
  | Sum j k => z j + z k
  | Max j k => Rmax (z j) (z k)
  end.

(** A run: every dot product in an order of its own, with or without FMA, stored once. *)
Definition runs (a : arithmetic) (choice : Z -> bool) (net : nat -> node) (x : nat -> R) (i : nat) : Prop :=
  match net i with
  | Input v => x i = v
  | Dot ks w bias => exists t, Permutation (prods t) ks /\ Permutation (terms t) bias /\
      (forall k, In k ks -> product_error (accumulate a) choice (product_roundoff a) (product_underflow a) (w k * x k)) /\
      x i = RN (storage a) choice (run (RN (accumulate a) choice) (fun k => w k * x k) t)
  | Relu j => x i = relu (x j)
  | Sum j k => x i = RN (storage a) choice (RN (internal a) choice (x j + x k))
  | Max j k => x i = Rmax (x j) (x k)
  end.

(** What the interval method computes: carried by the operands' radii e, and fresh. *)
Definition dot_magnitude (z : nat -> R) ks (w : nat -> R) bias : R := list_sum (map (fun k => Rabs (w k * z k)) ks) + list_sum (map Rabs bias).
Definition dot_carried (e : nat -> R) ks (w : nat -> R) : R := list_sum (map (fun k => Rabs (w k) * e k) ks).

Definition dot_fresh (a : arithmetic) (z e : nat -> R) ks w bias : R :=
  let u := unit_roundoff (accumulate a) in
  let m := dot_magnitude z ks w bias + dot_carried e ks w in
  let v := product_roundoff a * m + INR (length ks) * product_underflow a in
  let s := (dot_magnitude z ks w bias + Rabs (list_sum (map (fun k => w k * z k) ks) + list_sum bias)) / 2 + dot_carried e ks w in
  let n := INR (length ks + length bias - 1) in
  v + Rmin (n * u * (m + v)) (n * (u * ufp (s + v + n * u * (m + v)))).

Definition carried_by (net : nat -> node) (z e : nat -> R) (i : nat) : R :=
  match net i with
  | Input _ => 0
  | Dot ks w _ => dot_carried e ks w
  | Relu j => Rmin (e j) (Rmax (relu (z j + e j) - relu (z j)) (relu (z j) - relu (z j - e j)))
  | Sum j k => e j + e k
  | Max j k => Rmax (e j) (e k)
  end.

Definition local_error (a : arithmetic) (net : nat -> node) (z e : nat -> R) (i : nat) : R :=
  match net i with
  | Dot ks w bias => let fresh := dot_fresh a z e ks w bias in
                     fresh + store_error (storage a) (Rabs (z i) + dot_carried e ks w + fresh)
  | Sum j k => let fresh := store_error (internal a) (Rabs (z i) + (e j + e k)) in
               fresh + store_error (storage a) (Rabs (z i) + (e j + e k) + fresh)
  | _ => 0
  end.

Section Certificate.

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
Hypothesis e_enough : forall i, (i < n)%nat -> carried_by net z e i + local_error a net z e i <= e i.

Lemma list_sum_le : forall (f g : nat -> R) ks, (forall k, In k ks -> f k <= g k) -> list_sum (map f ks) <= list_sum (map g ks).
Proof. induction ks as [|k ks IH]; simpl; intros H; [lra|]. apply Rplus_le_compat; auto. Qed.

Lemma list_sum_abs : forall (f : nat -> R) ks, Rabs (list_sum (map f ks)) <= list_sum (map (fun k => Rabs (f k)) ks).
Proof. induction ks as [|k ks IH]; simpl; [rewrite Rabs_R0; lra|]. eapply Rle_trans. apply Rabs_triang. lra. Qed.

Lemma list_sum_minus : forall (f g : nat -> R) ks, list_sum (map f ks) - list_sum (map g ks) = list_sum (map (fun k => f k - g k) ks).
Proof. induction ks as [|k ks IH]; simpl; [ring|]. rewrite <- IH. ring. Qed.

Lemma over_permuted : forall f g t ks bias, Permutation (prods t) ks -> Permutation (terms t) bias ->
  over f g t = list_sum (map f ks) + list_sum (map g bias).
Proof. intros. rewrite over_lists. f_equal; apply list_sum_permutation, Permutation_map; assumption. Qed.

Lemma products_le : forall p t, (products p t <= length (prods t))%nat.
Proof.
  assert (B : forall b, (one_if b <= 1)%nat) by (destruct b; simpl; lia).
  induction t as [b|k|s IHs t IHt|k t IHt]; simpl; try rewrite app_length; try lia.
  - generalize (B (nonzero (p k))). lia.
  - generalize (B (nonzero (p k))). lia.
Qed.

Lemma list_zero : forall bias : list R, list_sum (map (fun _ => 0) bias) = 0.
Proof. induction bias as [|b bias IH]; simpl; [reflexivity|]. rewrite IH. lra. Qed.

Lemma map_id_sum : forall bias : list R, list_sum (map (fun b => b) bias) = list_sum bias.
Proof. intros. rewrite map_id. reflexivity. Qed.

(** The dot product of a run differs from the exact one of the run's own operands by [fresh] and the store. *)
Lemma dot_local : forall i ks w bias, (i < n)%nat -> net i = Dot ks w bias -> (forall j, (j < i)%nat -> Rabs (x j - z j) <= e j) ->
  Rabs (x i - exactly net x i) <= local_error a net z e i.
Proof.
  intros i ks w bias Hi Hnet He.
  assert (O := net_ordered i Hi). unfold ordered in O. rewrite Hnet in O. destruct O as [_ [Oks Obias]].
  assert (X := x_runs i Hi). unfold runs in X. rewrite Hnet in X. destruct X as [t [Tp [Tt [Tok Tx]]]].
  assert (Z := z_exact i Hi). unfold exactly in Z. rewrite Hnet in Z.
  unfold local_error, exactly. rewrite Hnet.
  set (p := fun k => w k * x k) in *. set (c := fun k => w k * z k). set (q := fun k => Rabs (w k) * e k).
  assert (In_ks : forall k, In k (prods t) -> In k ks) by (intros k; apply Permutation_in; exact Tp).
  assert (Hmag : magnitude c t = dot_magnitude z ks w bias) by (unfold magnitude, dot_magnitude; apply over_permuted; assumption).
  assert (Hcar : carried q t = dot_carried e ks w).
  { unfold carried, dot_carried. rewrite (over_permuted _ _ t ks bias Tp Tt), list_zero. unfold q. ring. }
  assert (Hcen : centre c t = z i).
  { unfold centre. rewrite (over_permuted _ _ t ks bias Tp Tt), map_id_sum. rewrite Z. reflexivity. }
  assert (Hexa : exact p t = list_sum (map p ks) + list_sum bias).
  { unfold exact. rewrite (over_permuted _ _ t ks bias Tp Tt), map_id_sum. reflexivity. }
  assert (Hq : forall k, In k (prods t) -> Rabs (p k - c k) <= q k).
  { intros k Hk. unfold p, c, q. replace (w k * x k - w k * z k) with (w k * (x k - z k)) by ring. rewrite Rabs_mult.
    apply Rmult_le_compat_l; [apply Rabs_pos|]. apply He. rewrite Forall_forall in Oks. apply Oks, In_ks, Hk. }
  assert (Hterms : Forall (number (accumulate a)) (terms t)) by (apply Permutation_Forall with bias; [apply Permutation_sym; exact Tt | exact Obias]).
  assert (Hpro : forall k, In k (prods t) -> product_error (accumulate a) choice (product_roundoff a) (product_underflow a) (p k)).
  { intros k Hk. apply Tok, In_ks, Hk. }
  assert (Lp : length (prods t) = length ks) by (apply Permutation_length; exact Tp).
  assert (Lt : length (terms t) = length bias) by (apply Permutation_length; exact Tt).
  set (m := dot_magnitude z ks w bias + dot_carried e ks w).
  set (v := product_roundoff a * m + INR (length ks) * product_underflow a).
  set (s := (dot_magnitude z ks w bias + Rabs (list_sum (map c ks) + list_sum bias)) / 2 + dot_carried e ks w).
  set (N := INR (length ks + length bias - 1)).
  assert (HN : INR (additions p t) <= N) by (apply le_INR; unfold additions; generalize (products_le p t); lia).
  assert (Hm : magnitude c t + carried q t <= m) by (rewrite Hmag, Hcar; unfold m; lra).
  assert (Hs : (magnitude c t + Rabs (centre c t)) / 2 + carried q t <= s) by (rewrite Hmag, Hcar, Hcen, Z; unfold s, c; lra).
  assert (Hv : product_roundoff a * m + INR (products p t) * product_underflow a <= v).
  { unfold v. apply Rplus_le_compat_l. apply Rmult_le_compat_r; [assumption|]. apply le_INR. generalize (products_le p t). lia. }
  destruct (any_order (accumulate a) accumulate_pos choice p c q (product_roundoff a) (product_underflow a) roundoff_nonneg underflow_nonneg t
    Hterms Hpro Hq m s v N HN Hm Hs Hv) as [E _].
  rewrite Hexa in E. change (v + Rmin _ _) with (dot_fresh a z e ks w bias) in E.
  set (fresh := dot_fresh a z e ks w bias) in *. set (y := run (RN (accumulate a) choice) p t) in *.
  assert (Ex : Rabs (list_sum (map p ks) + list_sum bias - z i) <= dot_carried e ks w).
  { rewrite Z. replace (list_sum (map p ks) + list_sum bias - (list_sum (map (fun k => w k * z k) ks) + list_sum bias))
      with (list_sum (map p ks) - list_sum (map (fun k => w k * z k) ks)) by ring.
    rewrite list_sum_minus. eapply Rle_trans. apply list_sum_abs. apply list_sum_le. intros k Hk. apply Hq.
    apply Permutation_in with ks; [apply Permutation_sym; exact Tp | exact Hk]. }
  assert (My : Rabs y <= Rabs (z i) + dot_carried e ks w + fresh).
  { replace y with (z i + ((list_sum (map p ks) + list_sum bias - z i) + (y - (list_sum (map p ks) + list_sum bias)))) by ring.
    eapply Rle_trans. apply Rabs_triang. eapply Rle_trans. apply Rplus_le_compat_l, Rabs_triang. lra. }
  rewrite Tx. change (fun k => w k * x k) with p.
  replace (RN (storage a) choice y - (list_sum (map p ks) + list_sum bias))
    with ((RN (storage a) choice y - y) + (y - (list_sum (map p ks) + list_sum bias))) by ring.
  eapply Rle_trans. apply Rabs_triang. generalize (rnd_error_within (storage a) storage_pos choice y _ My). lra.
Qed.

Lemma node_local : forall i, (i < n)%nat -> (forall j, (j < i)%nat -> Rabs (x j - z j) <= e j) ->
  Rabs (x i - exactly net x i) <= local_error a net z e i.
Proof.
  intros i Hi He. destruct (net i) as [v|ks w bias|j|j k|j k] eqn:Hnet.
  - assert (X := x_runs i Hi). unfold runs in X. unfold exactly, local_error. rewrite Hnet in *. rewrite X. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - apply dot_local with ks w bias; assumption.
  - assert (X := x_runs i Hi). unfold runs in X. unfold exactly, local_error. rewrite Hnet in *. rewrite X. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - assert (O := net_ordered i Hi). unfold ordered in O. assert (X := x_runs i Hi). unfold runs in X.
    assert (Z := z_exact i Hi). unfold exactly in *. unfold local_error. rewrite Hnet in *. destruct O as [Oj Ok].
    assert (M : Rabs (x j + x k) <= Rabs (z i) + (e j + e k)).
    { rewrite Z. replace (x j + x k) with ((z j + z k) + ((x j - z j) + (x k - z k))) by ring. eapply Rle_trans. apply Rabs_triang.
      apply Rplus_le_compat_l. eapply Rle_trans. apply Rabs_triang. apply Rplus_le_compat; apply He; assumption. }
    assert (E1 := rnd_error_within (internal a) internal_pos choice _ _ M).
    set (y := RN (internal a) choice (x j + x k)) in *. set (fresh := store_error (internal a) (Rabs (z i) + (e j + e k))) in *.
    assert (My : Rabs y <= Rabs (z i) + (e j + e k) + fresh).
    { replace y with ((x j + x k) + (y - (x j + x k))) by ring. eapply Rle_trans. apply Rabs_triang. lra. }
    assert (E2 := rnd_error_within (storage a) storage_pos choice _ _ My). rewrite X.
    replace (RN (storage a) choice y - (x j + x k)) with ((RN (storage a) choice y - y) + (y - (x j + x k))) by ring.
    eapply Rle_trans. apply Rabs_triang. lra.
  - assert (X := x_runs i Hi). unfold runs in X. unfold exactly, local_error. rewrite Hnet in *. rewrite X. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
Qed.

Lemma node_carried : forall i, (i < n)%nat -> (forall j, (j < i)%nat -> Rabs (x j - z j) <= e j) ->
  Rabs (exactly net x i - exactly net z i) <= carried_by net z e i.
Proof.
  intros i Hi He. assert (O := net_ordered i Hi). unfold ordered in O. unfold exactly, carried_by.
  destruct (net i) as [v|ks w bias|j|j k|j k].
  - unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - destruct O as [_ [Oks _]]. unfold dot_carried.
    match goal with |- Rabs (?a + ?b - (?c + ?b)) <= _ => replace (a + b - (c + b)) with (a - c) by ring end.
    rewrite list_sum_minus. eapply Rle_trans. apply list_sum_abs. apply list_sum_le. intros k Hk.
    replace (w k * x k - w k * z k) with (w k * (x k - z k)) by ring. rewrite Rabs_mult. apply Rmult_le_compat_l; [apply Rabs_pos|].
    apply He. rewrite Forall_forall in Oks. auto.
  - apply relu_enclosure. auto.
  - destruct O. replace (x j + x k - (z j + z k)) with ((x j - z j) + (x k - z k)) by ring. eapply Rle_trans. apply Rabs_triang.
    apply Rplus_le_compat; auto.
  - destruct O as [Oj Ok]. generalize (He j Oj) (He k Ok). clear. intros H1 H2.
    apply Rabs_le_inv in H1. apply Rabs_le_inv in H2. apply Rabs_le. unfold Rmax. destruct (Rle_dec (x j)), (Rle_dec (z j)), (Rle_dec (e j)); lra.
Qed.

(** Every stored value of every run lies in its enclosure. *)
Theorem enclosures : forall i, (i < n)%nat -> Rabs (x i - z i) <= e i.
Proof.
  apply (composition (fun i v => exactly net v i) z x e (carried_by net z e) (local_error a net z e) n); try assumption.
  - apply node_carried.
  - apply node_local.
Qed.

(** Hence the prediction is that of the exact network, where the gaps exceed the radii. *)
Theorem certificate : forall (logit : nat -> nat) classes c, (c < classes)%nat -> (forall j, (j < classes)%nat -> (logit j < n)%nat) ->
  (forall j, (j < c)%nat -> z (logit c) - z (logit j) > e (logit c) + e (logit j)) ->
  (forall j, (c < j < classes)%nat -> z (logit c) - z (logit j) >= e (logit c) + e (logit j)) ->
  argmax (fun j => x (logit j)) classes = c.
Proof.
  intros logit classes c Hc Hl Hb Ha.
  assert (He0 : forall j, (j < classes)%nat -> 0 <= e (logit j)).
  { intros j Hj. generalize (enclosures (logit j) (Hl j Hj)) (Rabs_pos (x (logit j) - z (logit j))). lra. }
  apply (pairwise (fun j => z (logit j)) (fun j => x (logit j)) (fun j => if Nat.eq_dec j c then 0 else e (logit c) + e (logit j)) classes c Hc).
  - intros j Hj. destruct Nat.eq_dec as [->|H].
    + match goal with |- Rabs ?v <= _ => replace v with 0 by ring end. rewrite Rabs_R0. lra.
    + generalize (enclosures _ (Hl c Hc)) (enclosures _ (Hl j Hj)). intros E1 E2.
      replace (x (logit c) - x (logit j) - (z (logit c) - z (logit j))) with ((x (logit c) - z (logit c)) - (x (logit j) - z (logit j))) by ring.
      unfold Rminus at 1. eapply Rle_trans. apply Rabs_triang. rewrite Rabs_Ropp. lra.
  - intros j Hj. destruct Nat.eq_dec; [lia|]. apply Hb. exact Hj.
  - intros j Hj. destruct Nat.eq_dec; [lia|]. apply Ha. exact Hj.
Qed.

(** ** The adjoint with secant slopes: an equation, for every run *)

(** The slopes: weights for dot products, a secant of ReLU or of a maximum. *)
Definition slopes_of (A : nat -> nat -> R) (i : nat) : Prop :=
  match net i with
  | Input _ => forall j, A i j = 0
  | Dot ks w _ => forall j, A i j = if in_dec Nat.eq_dec j ks then w j else 0
  | Relu k => exists s, 0 <= s <= 1 /\ (0 <= z k -> 0 <= x k -> s = 1) /\ (z k < 0 -> x k < 0 -> s = 0) /\
      forall j, A i j = if Nat.eq_dec j k then s else 0
  | Sum k l => forall j, A i j = (if Nat.eq_dec j k then 1 else 0) + (if Nat.eq_dec j l then 1 else 0)
  | Max k l => exists s, 0 <= s <= 1 /\ forall j, A i j = (if Nat.eq_dec j k then s else 0) + (if Nat.eq_dec j l then 1 - s else 0)
  end.

Lemma sum_at : forall m k s d, (k < m)%nat -> sum m (fun j => (if Nat.eq_dec j k then s else 0) * d j) = s * d k.
Proof.
  intros m k s d Hk. rewrite (sum_without m k _ Hk). destruct Nat.eq_dec; [|lia].
  rewrite (sum_ext m _ (fun _ => 0 * 0)). { rewrite sum_scal. ring. }
  intros j Hj. unfold without. destruct Nat.eq_dec; ring.
Qed.

Lemma sum_list : forall m ks (f : nat -> R), NoDup ks -> Forall (fun k => (k < m)%nat) ks ->
  sum m (fun j => if in_dec Nat.eq_dec j ks then f j else 0) = list_sum (map f ks).
Proof.
  intros m. induction ks as [|k ks IH]; intros f Hn Hk.
  - simpl. rewrite (sum_ext m _ (fun _ => 0 * 0)) by (intros; ring). rewrite sum_scal. ring.
  - inversion Hn as [|k' l Hkn Hn']; subst. inversion Hk as [|k' l Hkm Hk']; subst. simpl list_sum. fold (list_sum (map f ks)).
    rewrite <- (IH f Hn' Hk'). rewrite (sum_ext m _ (fun j => (if Nat.eq_dec j k then f k else 0) * 1 + (if in_dec Nat.eq_dec j ks then f j else 0))).
    + rewrite sum_plus, sum_at by exact Hkm. ring.
    + intros j Hj. destruct (in_dec Nat.eq_dec j (k :: ks)) as [H|H]; destruct (Nat.eq_dec j k) as [->|E]; destruct (in_dec Nat.eq_dec _ ks) as [G|G]; try ring; try contradiction.
      * exfalso. destruct H as [H|H]; [congruence | contradiction].
      * exfalso. apply H. left; reflexivity.
      * exfalso. apply H. right; exact G.
Qed.

Lemma max_secant : forall p q p' q', exists s, 0 <= s <= 1 /\ Rmax p' q' - Rmax p q = s * (p' - p) + (1 - s) * (q' - q).
Proof.
  intros p q p' q'. set (a1 := p' - p). set (b1 := q' - q).
  set (m := Rmax p' q' - Rmax p q).
  assert (Hm : Rmin a1 b1 <= m <= Rmax a1 b1).
  { unfold m, a1, b1, Rmin, Rmax. destruct (Rle_dec p' q'), (Rle_dec p q), (Rle_dec (p' - p) (q' - q)); lra. }
  destruct (Req_EM_T a1 b1) as [E|E].
  - exists 0. split; [lra|]. rewrite E in *. revert Hm. unfold Rmin, Rmax. destruct Rle_dec; lra.
  - exists ((m - b1) / (a1 - b1)). split.
    + revert Hm. unfold Rmin, Rmax. destruct (Rle_dec a1 b1); intros Hm.
      * replace ((m - b1) / (a1 - b1)) with ((b1 - m) / (b1 - a1)) by (field; lra). split.
        -- apply Rmult_le_reg_r with (b1 - a1); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra.
        -- apply Rmult_le_reg_r with (b1 - a1); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra.
      * split.
        -- apply Rmult_le_reg_r with (a1 - b1); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra.
        -- apply Rmult_le_reg_r with (a1 - b1); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra.
    + field. lra.
Qed.

Lemma node_slopes : forall i, (i < n)%nat -> exists Ai : nat -> R,
  slopes_of (fun _ => Ai) i /\ exactly net x i - exactly net z i = sum i (fun j => Ai j * (x j - z j)).
Proof.
  intros i Hi. assert (O := net_ordered i Hi). unfold ordered in O. unfold slopes_of, exactly.
  destruct (net i) as [v|ks w bias|k|k l|k l].
  - exists (fun _ => 0). split; [reflexivity|]. rewrite sum_scal. ring.
  - destruct O as [On [Oks _]]. exists (fun j => if in_dec Nat.eq_dec j ks then w j else 0). split; [reflexivity|].
    rewrite (sum_ext i _ (fun j => if in_dec Nat.eq_dec j ks then w j * (x j - z j) else 0)).
    + rewrite (sum_list i ks (fun j => w j * (x j - z j)) On Oks).
      match goal with |- ?a + ?b - (?c + ?b) = _ => replace (a + b - (c + b)) with (a - c) by ring end. rewrite list_sum_minus.
      f_equal. apply map_ext. intros; ring.
    + intros j Hj. destruct in_dec; ring.
  - destruct (relu_secant (z k) (x k - z k)) as [s [Hs [E [S1 S0]]]].
    exists (fun j => if Nat.eq_dec j k then s else 0). split.
    + exists s. replace (z k + (x k - z k)) with (x k) in * by ring. auto.
    + rewrite sum_at by exact O. replace (z k + (x k - z k)) with (x k) in E by ring. exact E.
  - destruct O as [Ok Ol]. exists (fun j => (if Nat.eq_dec j k then 1 else 0) + (if Nat.eq_dec j l then 1 else 0)). split; [reflexivity|].
    rewrite (sum_ext i _ (fun j => (if Nat.eq_dec j k then 1 else 0) * (x j - z j) + (if Nat.eq_dec j l then 1 else 0) * (x j - z j))) by (intros; ring).
    rewrite sum_plus, !(sum_at i) by assumption. ring.
  - destruct O as [Ok Ol]. destruct (max_secant (z k) (z l) (x k) (x l)) as [s [Hs E]].
    exists (fun j => (if Nat.eq_dec j k then s else 0) + (if Nat.eq_dec j l then 1 - s else 0)). split; [exists s; auto|].
    rewrite (sum_ext i _ (fun j => (if Nat.eq_dec j k then s else 0) * (x j - z j) + (if Nat.eq_dec j l then 1 - s else 0) * (x j - z j))) by (intros; ring).
    rewrite sum_plus, !(sum_at i) by assumption. exact E.
Qed.

Theorem secant_adjoint : exists A, (forall i, (i < n)%nat -> slopes_of A i) /\
  forall g, Rabs (sum n (fun j => g j * (x j - z j))) <= adjoint A Rabs n (local_error a net z e) g.
Proof.
  assert (C : forall m, (m <= n)%nat -> exists A, (forall i, (i < m)%nat -> slopes_of A i /\ exactly net x i - exactly net z i = sum i (fun j => A i j * (x j - z j)))).
  { induction m as [|m IH]; intros Hm.
    - exists (fun _ _ => 0). intros; lia.
    - destruct (IH ltac:(lia)) as [A HA]. destruct (node_slopes m ltac:(lia)) as [Am [S1 S2]].
      exists (fun i => if Nat.eq_dec i m then Am else A i). intros i Hi.
      unfold slopes_of in *. destruct (Nat.eq_dec i m) as [->|E].
      + split; assumption.
      + apply HA. lia. }
  destruct (C n (le_n _)) as [A HA]. exists A. split; [intros i Hi; apply HA; exact Hi|]. intros g.
  rewrite (adjoint_exact A n (fun j => x j - z j) (fun i => x i - exactly net x i)).
  - apply adjoint_bound. intros i Hi. apply node_local; [exact Hi|]. intros j Hj. apply enclosures. lia.
  - intros i Hi. destruct (HA i Hi) as [_ E]. rewrite <- E. rewrite <- (z_exact i Hi). ring.
Qed.

End Certificate.
