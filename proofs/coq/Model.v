(** What the theorems speak of: formats, roundings, sums along trees, argmaxes. *)
From Coq Require Import Reals ZArith List.
From Flocq Require Import Core.
Import ListNotations.
Open Scope R_scope.

(** * Formats *)

(** [bits] significant bits; every number is a multiple of [2^least]; finite numbers lie below [2^top]. *)
Record format := Format { bits : Z; least : Z; top : Z }.

Definition binary16 := Format 11 (-24) 16.
Definition bfloat16 := Format 8 (-133) 128.
Definition tf32 := Format 11 (-136) 128.
Definition binary32 := Format 24 (-149) 128.
Definition binary64 := Format 53 (-1074) 1024.
Definition e5m2 := Format 3 (-16) 16.

(** Numbers of the format, were there no largest one. *)
Definition number (f : format) (t : R) : Prop := generic_format radix2 (FLT_exp (least f) (bits f)) t.

(** To nearest; [choice] says where ties go. *)
Definition RN (f : format) (choice : Z -> bool) (t : R) : R := round radix2 (FLT_exp (least f) (bits f)) (Znearest choice) t.

(** Towards zero. *)
Definition RZ (f : format) (t : R) : R := round radix2 (FLT_exp (least f) (bits f)) Ztrunc t.

Definition unit_roundoff (f : format) : R := bpow radix2 (- bits f).
Definition eta (f : format) : R := bpow radix2 (least f - 1).
Definition smallest_normal (f : format) : R := bpow radix2 (least f + bits f - 1).
Definition largest (f : format) : R := (1 - unit_roundoff f) * bpow radix2 (top f).
Definition overflow_threshold (f : format) : R := (1 - unit_roundoff f / 2) * bpow radix2 (top f).

Definition ufp (t : R) : R := if Req_EM_T t 0 then 0 else bpow radix2 (mag radix2 t - 1).

(** The largest error of rounding a number of at most this magnitude to nearest. *)
Definition store_error (f : format) (t : R) : R := Rmax (unit_roundoff f * ufp t) (eta f).

(** * Dot products *)

(** A sum in some order: terms (a bias), products, additions, and additions fused with the product they add. *)
Inductive tree :=
  | Term (b : R)
  | Prod (k : nat)
  | Add (s t : tree)
  | Fma (k : nat) (t : tree).

Fixpoint terms (t : tree) : list R :=
  match t with
  | Term b => [b]
  | Prod _ => []
  | Add s t => terms s ++ terms t
  | Fma _ t => terms t
  end.

Fixpoint prods (t : tree) : list nat :=
  match t with
  | Term _ => []
  | Prod k => [k]
  | Add s t => prods s ++ prods t
  | Fma k t => k :: prods t
  end.

(** Sum of [f] over the products and of [g] over the terms. *)
Fixpoint over (f : nat -> R) (g : R -> R) (t : tree) : R :=
  match t with
  | Term b => g b
  | Prod k => f k
  | Add s t => over f g s + over f g t
  | Fma k t => f k + over f g t
  end.

(** What a machine computes whose additions, products and fused operations round by [rnd]; [p k] is the exact k-th product. *)
Fixpoint run (rnd : R -> R) (p : nat -> R) (t : tree) : R :=
  match t with
  | Term b => b
  | Prod k => rnd (p k)
  | Add s t => rnd (run rnd p s + run rnd p t)
  | Fma k t => rnd (p k + run rnd p t)
  end.

Definition exact (p : nat -> R) (t : tree) : R := over p (fun b => b) t.

(** Everything that is computed on the way, the result included. *)
Fixpoint intermediates (rnd : R -> R) (p : nat -> R) (t : tree) : list R :=
  match t with
  | Term b => [b]
  | Prod k => [rnd (p k)]
  | Add s u => run rnd p t :: intermediates rnd p s ++ intermediates rnd p u
  | Fma k u => run rnd p t :: intermediates rnd p u
  end.

Definition one_if (b : bool) : nat := if b then 1%nat else 0%nat.
Definition nonzero (t : R) : bool := if Req_EM_T t 0 then false else true.

(** Products that are not zero. *)
Fixpoint products (p : nat -> R) (t : tree) : nat :=
  match t with
  | Term _ => 0%nat
  | Prod k => one_if (nonzero (p k))
  | Add s t => (products p s + products p t)%nat
  | Fma k t => (one_if (nonzero (p k)) + products p t)%nat
  end.

(** Additions that can round: one less than the terms and products that are not zero. *)
Definition additions (p : nat -> R) (t : tree) : nat := (length (terms t) + products p t - 1)%nat.

(** A multiple of the format's smallest positive number. *)
Definition multiple (f : format) (t : R) : Prop := exists n : Z, t = IZR n * bpow radix2 (least f).

(** [r] and [h] bound the relative and the absolute error of a product [p] in the format. *)
Definition product_error (f : format) (choice : Z -> bool) (r h p : R) : Prop :=
  Rabs (RN f choice p - p) <= r * Rabs p + h /\ (multiple f p \/ eta f <= h).

(** * Argmax *)

(** [first_argmax z n c]: c is the least index below n at which z is largest. *)
Definition first_argmax (z : nat -> R) (n c : nat) : Prop :=
  (c < n)%nat /\ (forall j, (j < c)%nat -> z j < z c) /\ (forall j, (c < j < n)%nat -> z j <= z c).

(** The loop that computes it. *)
Fixpoint argmax (z : nat -> R) (n : nat) : nat :=
  match n with
  | O => O
  | S m => match m with
           | O => O
           | _ => let c := argmax z m in if Rlt_dec (z c) (z m) then m else c
           end
  end.

(** * Finite sums *)

Fixpoint sum (n : nat) (f : nat -> R) : R :=
  match n with
  | O => 0
  | S m => sum m f + f m
  end.

Definition relu (t : R) : R := Rmax 0 t.
