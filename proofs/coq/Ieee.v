(** IEEE 754 numbers, with infinities and NaN: if the result is finite, it is the one of the model of real numbers. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From Flocq Require Import Core BinarySingleNaN.
From PrecisionKit Require Import Model Rounding Dot.
Import ListNotations.
Open Scope R_scope.

(** Sums of floating-point numbers. *)
Inductive fsum (prec emax : Z) :=
  | FTerm (b : binary_float prec emax)
  | FProd (k : nat)
  | FAdd (s t : fsum prec emax)
  | FFma (k : nat) (t : fsum prec emax).
Arguments FTerm {prec emax}.
Arguments FProd {prec emax}.
Arguments FAdd {prec emax}.
Arguments FFma {prec emax}.

Section Ieee.

Variables prec emax : Z.
Context (Hp : Prec_gt_0 prec).
Context (He : Prec_lt_emax prec emax).

Definition ieee : format := Format prec (3 - emax - prec) emax.
Definition even (n : Z) : bool := negb (Z.even n).

Notation float := (binary_float prec emax).
Notation rnd := (RN ieee even).

Variables w x : nat -> float.

Fixpoint frun (t : fsum prec emax) : float :=
  match t with
  | FTerm b => b
  | FProd k => Bmult mode_NE (w k) (x k)
  | FAdd s t => Bplus mode_NE (frun s) (frun t)
  | FFma k t => Bfma mode_NE (w k) (x k) (frun t)
  end.

Fixpoint reals (t : fsum prec emax) : tree :=
  match t with
  | FTerm b => Term (B2R b)
  | FProd k => Prod k
  | FAdd s t => Add (reals s) (reals t)
  | FFma k t => Fma k (reals t)
  end.

Definition product (k : nat) : R := B2R (w k) * B2R (x k).

Lemma float_number : forall b : float, number ieee (B2R b).
Proof. intros. apply generic_format_B2R. Qed.

Lemma plus_finite : forall a b : float, is_finite (Bplus mode_NE a b) = true ->
  is_finite a = true /\ is_finite b = true /\ B2R (Bplus mode_NE a b) = rnd (B2R a + B2R b).
Proof.
  intros a b H.
  assert (Fa : is_finite a = true /\ is_finite b = true).
  { destruct a as [sa|sa| |sa ma ea Ha], b as [sb|sb| |sb mb eb Hb]; simpl in H; try discriminate H; try (split; reflexivity).
    destruct (Bool.eqb sa sb); discriminate H. }
  destruct Fa as [Fa Fb]. split; [exact Fa|]. split; [exact Fb|].
  assert (C := Bplus_correct prec emax Hp He mode_NE a b Fa Fb).
  destruct Rlt_bool.
  - destruct C as [C _]. exact C.
  - destruct C as [C _]. rewrite <- is_finite_SF_B2SF, C in H. discriminate H.
Qed.

Lemma mult_finite : forall a b : float, is_finite (Bmult mode_NE a b) = true ->
  is_finite a = true /\ is_finite b = true /\ B2R (Bmult mode_NE a b) = rnd (B2R a * B2R b).
Proof.
  intros a b H. assert (C := Bmult_correct prec emax Hp He mode_NE a b).
  destruct Rlt_bool.
  - destruct C as [C [C2 _]]. rewrite H in C2. symmetry in C2. apply andb_prop in C2. destruct C2. repeat split; assumption.
  - rewrite <- is_finite_SF_B2SF, C in H. discriminate H.
Qed.

Lemma fma_finite : forall a b c : float, is_finite (Bfma mode_NE a b c) = true ->
  is_finite a = true /\ is_finite b = true /\ is_finite c = true /\ B2R (Bfma mode_NE a b c) = rnd (B2R a * B2R b + B2R c).
Proof.
  intros a b c H.
  assert (Fa : is_finite a = true /\ is_finite b = true /\ is_finite c = true).
  { destruct a as [sa|sa| |sa ma ea Ha], b as [sb|sb| |sb mb eb Hb], c as [sc|sc| |sc mc ec Hc]; simpl in H;
      try discriminate H; try (repeat split; reflexivity);
      try (match type of H with context [Bool.eqb ?u ?v] => destruct (Bool.eqb u v) end; discriminate H). }
  destruct Fa as [Fa [Fb Fc]]. repeat (split; [assumption|]).
  assert (C := Bfma_correct prec emax Hp He mode_NE a b c Fa Fb Fc). cbv zeta in C.
  destruct Rlt_bool.
  - destruct C as [C _]. exact C.
  - rewrite <- is_finite_SF_B2SF, C in H. discriminate H.
Qed.

(** One check of the result suffices. *)
Theorem finite_result : forall t, is_finite (frun t) = true ->
  B2R (frun t) = Model.run rnd product (reals t) /\ Forall (number ieee) (terms (reals t)).
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; cbn [frun reals Model.run terms]; intros H.
  - split; [reflexivity|]. constructor; [apply float_number | constructor].
  - split; [|constructor]. destruct (mult_finite _ _ H) as [_ [_ E]]. exact E.
  - destruct (plus_finite _ _ H) as [Hs [Ht E]]. destruct (IHs Hs) as [Es Ns]. destruct (IHt Ht) as [Et Nt].
    split; [rewrite E, Es, Et; reflexivity | apply Forall_app; split; assumption].
  - destruct (fma_finite _ _ _ H) as [_ [_ [Ht E]]]. destruct (IHt Ht) as [Et Nt].
    split; [rewrite E, Et; reflexivity | exact Nt].
Qed.

(** Conversely: where the model stays below [2^emax], nothing overflows. *)
Theorem no_overflow_finite : forall t,
  (forall k, is_finite (w k) = true /\ is_finite (x k) = true) ->
  (fix ok t := match t with FTerm b => is_finite b = true | FProd _ => True | FAdd s t => ok s /\ ok t | FFma _ t => ok t end) t ->
  Forall (fun v => Rabs v < bpow radix2 emax) (intermediates rnd product (reals t)) -> is_finite (frun t) = true.
Proof.
  induction t as [b|k|s IHs t IHt|k t IHt]; intros Hwx Hb H.
  - exact Hb.
  - cbn [reals intermediates] in H. inversion H as [|v l H1 H2]; subst. cbn [frun].
    assert (C := Bmult_correct prec emax Hp He mode_NE (w k) (x k)).
    rewrite Rlt_bool_true in C by exact H1. destruct C as [_ [C _]]. destruct (Hwx k) as [-> ->] in C. exact C.
  - destruct Hb as [Hbs Hbt]. cbn [reals intermediates] in H. inversion H as [|v l H1 H2]; subst. apply Forall_app in H2. destruct H2 as [H2 H3].
    assert (Fs := IHs Hwx Hbs H2). assert (Ft := IHt Hwx Hbt H3). cbn [frun].
    destruct (finite_result s Fs) as [Es _]. destruct (finite_result t Ft) as [Et _].
    assert (C := Bplus_correct prec emax Hp He mode_NE (frun s) (frun t) Fs Ft).
    rewrite Rlt_bool_true in C.
    + destruct C as [_ [C _]]. exact C.
    + rewrite Es, Et. exact H1.
  - cbn [reals intermediates] in H. inversion H as [|v l H1 H2]; subst.
    assert (Ft := IHt Hwx Hb H2). cbn [frun]. destruct (finite_result t Ft) as [Et _]. destruct (Hwx k) as [Fw Fx].
    assert (C := Bfma_correct prec emax Hp He mode_NE (w k) (x k) (frun t) Fw Fx Ft). cbv zeta in C.
    rewrite Rlt_bool_true in C.
    + destruct C as [_ [C _]]. exact C.
    + rewrite Et. exact H1.
Qed.

End Ieee.

(** The store in a narrower format. *)
Section Store.

Variables prec emax prec' emax' : Z.
Context (Hp : Prec_gt_0 prec) (He : Prec_lt_emax prec emax) (Hp' : Prec_gt_0 prec') (He' : Prec_lt_emax prec' emax').

Definition convert (a : binary_float prec emax) : binary_float prec' emax' :=
  match a with
  | B754_zero s => B754_zero s
  | B754_infinity s => B754_infinity s
  | B754_nan => B754_nan
  | B754_finite s m e _ => binary_normalize prec' emax' Hp' He' mode_NE (cond_Zopp s (Zpos m)) e s
  end.

Theorem convert_finite : forall a, is_finite (convert a) = true ->
  is_finite a = true /\ B2R (convert a) = RN (ieee prec' emax') even (B2R a).
Proof.
  intros [s|s| |s m e Hb] H; simpl in H; try discriminate H.
  - split; [reflexivity|]. simpl. symmetry. apply rnd_0.
  - split; [reflexivity|]. cbn [convert] in *.
    assert (C := binary_normalize_correct prec' emax' Hp' He' mode_NE (cond_Zopp s (Zpos m)) e s).
    cbv zeta in C. destruct Rlt_bool.
    + destruct C as [C _]. rewrite C. reflexivity.
    + rewrite <- is_finite_SF_B2SF, C in H. discriminate H.
Qed.

End Store.
