(** Flocq's floating-point numbers, run: what Python computes is checked against them (Vectors.v, written by proofs/vectors.py). *)
From Coq Require Import ZArith List Bool.
From Flocq Require Import Core BinarySingleNaN.
From PrecisionKit Require Import Ieee.
Import ListNotations.
Open Scope Z_scope.

(** [N m e] is [m 2^e]; zeros and infinities have signs. *)
Inductive literal := N (m e : Z) | Zero (negative : bool) | Inf (negative : bool) | NaN.

Section Execute.

Variables prec emax : Z.
Context (Hp : Prec_gt_0 prec) (He : Prec_lt_emax prec emax).
Notation float := (binary_float prec emax).

(** Rounded once. *)
Definition rounded (mode : mode) (l : literal) : float :=
  match l with
  | N m e => binary_normalize prec emax Hp He mode m e (m <? 0)
  | Zero s => B754_zero s
  | Inf s => B754_infinity s
  | NaN => B754_nan
  end.

Definition float_of : literal -> float := rounded mode_NE.

Definition same (a b : float) : bool :=
  match a, b with
  | B754_zero s, B754_zero t | B754_infinity s, B754_infinity t => Bool.eqb s t
  | B754_nan, B754_nan => true
  | B754_finite s m e _, B754_finite t n f _ => Bool.eqb s t && Pos.eqb m n && Z.eqb e f
  | _, _ => false
  end.

(** The result, exactly: no rounding makes it the expected one. *)
Definition is (a : float) (l : literal) : bool :=
  match l, a with
  | N m e, B754_finite s n f _ => Bool.eqb s (m <? 0) && (Z.abs m * 2 ^ (e - Z.min e f) =? Zpos n * 2 ^ (f - Z.min e f))
  | N _ _, _ => false
  | _, _ => same a (float_of l)
  end.

Definition round_ok (mode : mode) (v : literal * literal) : bool := let (x, y) := v in is (rounded mode x) y.
Definition add_ok (mode : mode) (v : literal * literal * literal) : bool :=
  let '(a, b, y) := v in is (Bplus mode (float_of a) (float_of b)) y.
Definition multiply_ok (mode : mode) (v : literal * literal * literal) : bool :=
  let '(a, b, y) := v in is (Bmult mode (float_of a) (float_of b)) y.
Definition divide_ok (mode : mode) (v : literal * literal * literal) : bool :=
  let '(a, b, y) := v in is (Bdiv mode (float_of a) (float_of b)) y.
Definition sqrt_ok (mode : mode) (v : literal * literal) : bool := let (x, y) := v in is (Bsqrt mode (float_of x)) y.
Definition fma_ok (mode : mode) (v : literal * literal * literal * literal) : bool :=
  let '(a, b, c, y) := v in is (Bfma mode (float_of a) (float_of b) (float_of c)) y.

(** A dot product along a tree of additions and fused operations: the sums of which Ieee.v speaks. *)
Inductive shape := P (k : nat) | B | A (s t : shape) | F (k : nat) (t : shape).

Fixpoint tree_of (bias : literal) (s : shape) : fsum prec emax :=
  match s with
  | P k => FProd k
  | B => FTerm (float_of bias)
  | A s t => FAdd (tree_of bias s) (tree_of bias t)
  | F k t => FFma k (tree_of bias t)
  end.

Definition nth_float (l : list literal) (k : nat) : float := float_of (nth k l NaN).

Definition dot_ok (s : shape) (v : list literal * list literal * literal * literal) : bool :=
  let '(w, x, bias, y) := v in is (frun prec emax Hp He (nth_float w) (nth_float x) (tree_of bias s)) y.

(** One step of a tensor core: products and the accumulator aligned to the largest exponent, truncated, added, rounded. *)
Definition exponent_of (emin : Z) (l : literal) : option Z :=
  match l with
  | N m e => Some (Z.max (Z.log2 (Z.abs m) + e) emin)
  | _ => None
  end.

Definition larger (a b : option Z) : option Z :=
  match a, b with
  | Some a, Some b => Some (Z.max a b)
  | None, b => b
  | a, None => a
  end.

Definition both (a b : option Z) : option Z := match a, b with Some a, Some b => Some (a + b) | _, _ => None end.

(** Truncated to a multiple of [2^q], in units of it. *)
Definition in_units (q m e : Z) : Z := if q <=? e then m * 2 ^ (e - q) else Z.quot m (2 ^ (q - e)).

Definition units_of (q : Z) (l : literal) : Z := match l with N m e => in_units q m e | _ => 0 end.

Definition times (a b : literal) : literal := match a, b with N m e, N n f => N (m * n) (e + f) | _, _ => Zero false end.

Definition step_ok (mode : mode) (fraction emin_storage emin : Z) (v : list (literal * literal) * literal * literal) : bool :=
  let '(factors, acc, y) := v in
  let scale := fold_left larger (map (fun p => both (exponent_of emin_storage (fst p)) (exponent_of emin_storage (snd p))) factors) (exponent_of emin acc) in
  match scale with
  | None => is (B754_zero false) y
  | Some e =>
      let q := e - fraction in
      let total := fold_left Z.add (map (fun p => units_of q (times (fst p) (snd p))) factors) (units_of q acc) in
      is (binary_normalize prec emax Hp He mode total q false) y
  end.

End Execute.

(** Stored in a narrower format. *)
Definition store_ok (prec emax prec' emax' : Z) Hp He Hp' He' (v : literal * literal) : bool :=
  let (x, y) := v in is prec' emax' Hp' He' (convert prec emax prec' emax' Hp' He' (float_of prec emax Hp He x)) y.
