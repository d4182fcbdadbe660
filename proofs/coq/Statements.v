(** The statements, each with its proof by name.  Numbers in brackets are those of bounds.md.  What Coq prints of this file is pinned
    in statements.txt, with the definitions it rests on and the axioms that it uses. *)
From Coq Require Import Reals ZArith List Permutation.
From Flocq Require Import Core BinarySingleNaN.
From PrecisionKit Require Import Model Rounding Dot Jeannerod Named TensorCore Products Ieee Relax Softmax Azuma Functions Margin Network Corollaries Zonotope Probable Examples.
Import ListNotations.
Open Scope R_scope.

Local Notation has_bits f := (0 < bits f)%Z (only parsing).

(** * [1] One rounding *)

Theorem store_error_bounds_rounding : forall f, has_bits f -> forall choice t m, Rabs t <= m -> Rabs (RN f choice t - t) <= store_error f m.
Proof. exact rnd_error_within. Qed.

Theorem store_does_not_overflow : forall f, has_bits f -> forall choice, (least f + bits f <= top f)%Z ->
  forall t, Rabs t < overflow_threshold f -> Rabs (RN f choice t) <= largest f.
Proof. exact no_overflow. Qed.

Theorem sums_have_no_underflow : forall f, has_bits f -> forall choice a b, number f a -> number f b ->
  Rabs (RN f choice (a + b) - (a + b)) <= unit_roundoff f * ufp (a + b).
Proof. exact sum_error. Qed.

(** * [2] Sums in any order *)

Theorem sum_in_any_order : forall f choice t, has_bits f -> without_products t -> Forall (number f) (terms t) ->
  Rabs (run (RN f choice) (fun _ => 0) t - list_sum (terms t)) <= INR (length (terms t) - 1) * unit_roundoff f * list_sum (map Rabs (terms t)).
Proof. exact sum_any_order. Qed.

Theorem dot_in_any_order : forall f, has_bits f -> forall choice p t, Forall (number f) (terms t) ->
  let n := INR (leaves t) in
  Rabs (run (RN f choice) p t - exact p t)
    <= n * unit_roundoff f * over (fun k => Rabs (p k)) Rabs t + n * (1 + n * unit_roundoff f) * eta f.
Proof. exact sharp_dot. Qed.

(** Fused or not, of IEEE numbers with infinities and NaN: one check of the result. *)
Theorem dot_of_ieee_numbers : forall prec emax (Hp : Prec_gt_0 prec) (He : Prec_lt_emax prec emax) w x (t : fsum prec emax),
  is_finite (frun prec emax Hp He w x t) = true ->
  let f := ieee prec emax in
  let p := product prec emax w x in
  let n := INR (leaves (reals prec emax t)) in
  Rabs (B2R (frun prec emax Hp He w x t) - exact p (reals prec emax t))
    <= n * unit_roundoff f * over (fun k => Rabs (p k)) Rabs (reals prec emax t) + n * (1 + n * unit_roundoff f) * eta f.
Proof. exact ieee_dot. Qed.

Theorem finite_result_is_the_model : forall prec emax (Hp : Prec_gt_0 prec) (He : Prec_lt_emax prec emax) w x (t : fsum prec emax),
  is_finite (frun prec emax Hp He w x t) = true ->
  B2R (frun prec emax Hp He w x t) = run (RN (ieee prec emax) even) (product prec emax w x) (reals prec emax t)
    /\ Forall (number (ieee prec emax)) (terms (reals prec emax t)).
Proof. exact finite_result. Qed.

Theorem conversion_is_the_store : forall prec emax prec' emax' (Hp' : Prec_gt_0 prec') (He' : Prec_lt_emax prec' emax') (a : binary_float prec emax),
  is_finite (convert prec emax prec' emax' Hp' He' a) = true ->
  is_finite a = true /\ B2R (convert prec emax prec' emax' Hp' He' a) = RN (ieee prec' emax') even (B2R a).
Proof. exact convert_finite. Qed.

Theorem named_formats_are_ieee : ieee 11 16 = binary16 /\ ieee 8 128 = bfloat16 /\ ieee 24 128 = binary32 /\ ieee 53 1024 = binary64
  /\ ieee 11 128 = tf32 /\ ieee 3 16 = e5m2.
Proof. exact formats_are_ieee. Qed.

(** What a product loses, by the formats of its factors and of the accumulator. *)
Theorem half_products_are_exact : forall x y, number binary16 x -> number binary16 y -> number binary32 (x * y).
Proof. exact half_products_exact_in_binary32. Qed.

Theorem products_exact : forall narrow wide, has_bits narrow -> has_bits wide -> forall choice x y,
  (2 * bits narrow <= bits wide)%Z -> (least wide <= 2 * least narrow)%Z ->
  number narrow x -> number narrow y -> product_error wide choice 0 0 (x * y).
Proof. exact product_rule_exact. Qed.

Theorem products_exact_but_for_underflow : forall narrow wide, has_bits narrow -> has_bits wide -> forall choice x y,
  (2 * bits narrow <= bits wide)%Z -> number narrow x -> number narrow y -> product_error wide choice 0 (eta wide) (x * y).
Proof. exact product_rule_underflow. Qed.

Theorem products_without_underflow : forall narrow wide, has_bits narrow -> has_bits wide -> forall choice x y,
  (least wide <= 2 * least narrow)%Z -> number narrow x -> number narrow y -> product_error wide choice (unit_roundoff wide) 0 (x * y).
Proof. exact product_rule_no_underflow. Qed.

Theorem products_rounded : forall wide, has_bits wide -> forall choice p, product_error wide choice (unit_roundoff wide) (eta wide) p.
Proof. exact product_rule_rounded. Qed.

(** * [3] Subset sums: what [ops._dot.any_order] computes *)

Theorem any_order_over_an_enclosure : forall f, has_bits f -> forall choice p c q r h, 0 <= r -> 0 <= h -> forall t,
  Forall (number f) (terms t) ->
  (forall k, In k (prods t) -> product_error f choice r h (p k)) ->
  (forall k, In k (prods t) -> Rabs (p k - c k) <= q k) ->
  forall magnitude largest product_error additions,
  INR (Model.additions p t) <= additions ->
  over (fun k => Rabs (c k)) Rabs t + over q (fun _ => 0) t <= magnitude ->
  (over (fun k => Rabs (c k)) Rabs t + Rabs (over c (fun b => b) t)) / 2 + over q (fun _ => 0) t <= largest ->
  r * magnitude + INR (products p t) * h <= product_error ->
  let classical := additions * unit_roundoff f * (magnitude + product_error) in
  let subsets := additions * (unit_roundoff f * ufp (largest + product_error + classical)) in
  Rabs (run (RN f choice) p t - exact p t) <= product_error + Rmin classical subsets /\
  Forall (fun i => Rabs i <= largest + product_error + Rmin classical subsets) (intermediates (RN f choice) p t).
Proof.
  intros f Hf choice p c q r h Hr Hh t Ht Hp Hq m s v n Hn Hm Hs Hv.
  exact (any_order f Hf choice p c q r h Hr Hh t Ht Hp Hq m s v n Hn Hm Hs Hv).
Qed.

Theorem subset_sums_of_one_run : forall f choice p t r h, has_bits f -> 0 <= r -> 0 <= h -> Forall (number f) (terms t) ->
  (forall k, In k (prods t) -> product_error f choice r h (p k)) ->
  let m := over (fun k => Rabs (p k)) Rabs t in
  let v := r * m + INR (products p t) * h in
  let s := (m + Rabs (exact p t)) / 2 in
  let n := INR (additions p t) in
  Rabs (run (RN f choice) p t - exact p t) <= v + n * (unit_roundoff f * ufp (s + v + n * unit_roundoff f * (m + v))).
Proof. exact subset_sums. Qed.

Theorem subset_sums_are_attained : forall f choice, (1 < bits f)%Z -> (least f <= - bits f)%Z ->
  let v := unit_roundoff f in
  let t := Add (Term 1) (Term v) in
  number f 1 /\ number f v /\ Rabs (run (RN f choice) (fun _ => 0) t - exact (fun _ => 0) t) = 1 * (v * ufp (1 + v)).
Proof. exact subset_sums_attained. Qed.

(** An order permutes the products and the bias, and nothing else. *)
Theorem any_order_sums_the_same : forall f g t n bias, Permutation (prods t) (seq 0 n) -> Permutation (terms t) bias ->
  over f g t = sum n f + list_sum (map g bias).
Proof. exact over_any_order. Qed.

(** Products of binary16 or bfloat16 numbers, summed in binary32, stored in the half format. *)
Theorem half_dot_products : forall half h, (half = binary16 /\ h = 0) \/ (half = bfloat16 /\ h = eta binary32) ->
  forall choice choice' w x z e t,
  (forall k, In k (prods t) -> number half (w k) /\ number half (x k)) -> Forall (number half) (terms t) ->
  (forall k, In k (prods t) -> Rabs (x k - z k) <= e k) ->
  let magnitude := over (fun k => Rabs (w k * z k)) Rabs t in
  let carried := over (fun k => Rabs (w k) * e k) (fun _ => 0) t in
  let centre := over (fun k => w k * z k) (fun b => b) t in
  let n := INR (length (prods t) + length (terms t) - 1) in
  let u := unit_roundoff binary32 in
  let v := INR (length (prods t)) * h in
  let m := magnitude + carried in
  let s := (magnitude + Rabs centre) / 2 + carried in
  let fresh := v + Rmin (n * u * (m + v)) (n * (u * ufp (s + v + n * u * (m + v)))) in
  Rabs (RN half choice' (run (RN binary32 choice) (fun k => w k * x k) t) - centre)
    <= carried + fresh + store_error half (Rabs centre + carried + fresh).
Proof. exact half_dot_stored. Qed.

(** Overflow is excluded by the sum of magnitudes. *)
Theorem no_partial_sum_overflows : forall prec emax (Hp : Prec_gt_0 prec) (He : Prec_lt_emax prec emax) w x (t : fsum prec emax),
  (forall k, is_finite (w k) = true /\ is_finite (x k) = true) ->
  (fix ok t := match t with FTerm b => is_finite b = true | FProd _ => True | FAdd s t => ok s /\ ok t | FFma _ t => ok t end) t ->
  let f := ieee prec emax in
  let p := product prec emax w x in
  let m := over (fun k => Rabs (p k)) Rabs (reals prec emax t) in
  let v := unit_roundoff f * m + INR (products p (reals prec emax t)) * eta f in
  m + v + INR (additions p (reals prec emax t)) * unit_roundoff f * (m + v) < bpow radix2 emax ->
  is_finite (frun prec emax Hp He w x t) = true.
Proof. exact overflow_freedom. Qed.

(** * [4] Named trees *)

Theorem named_tree_running_bound : forall f, has_bits f -> forall choice c q r h, 0 <= r -> 0 <= h -> forall p, (forall k, 0 <= q k) ->
  forall t, Forall (number f) (terms t) ->
  (forall k, In k (prods t) -> product_error f choice r h (p k)) -> (forall k, In k (prods t) -> Rabs (p k - c k) <= q k) ->
  Rabs (run (RN f choice) p t - exact p t) <= running f c q r h t /\ Rabs (exact p t - centre c t) <= carried q t.
Proof. exact named_tree. Qed.

Theorem fusing_keeps_the_running_bound : forall f c q r h k t, running f c q r h (Fma k t) = running f c q r h (Add (Prod k) t).
Proof. exact running_fused. Qed.

Theorem known_inputs : forall f, has_bits f -> forall choice p t, low f choice p t <= run (RN f choice) p t <= high f choice p t.
Proof. exact known_tree. Qed.

(** * [5] Tensor cores *)

Theorem tensor_core_steps : forall fraction out add p t s, 0 <= t -> 0 <= s -> (forall x, Rabs (out x - x) <= t * Rabs (out x) + s) ->
  forall m floor count most c, 0 <= floor ->
  positive p c <= m -> negative p c <= m -> obeys fraction out add p floor c -> sums_ok fraction out add p t c ->
  (nonzeros p (multiplied c) <= count)%nat -> (steps c <= most)%nat -> (joins c <= most)%nat ->
  let a := (INR count + INR most) * bpow radix2 (- fraction) + 2 * INR most * t in a < 1 ->
  let error := (a * (m + floor) + INR most * s) / (1 - a) in
  Rabs (value fraction out add p c - ideal p c) <= error /\ Rabs (value fraction out add p c) <= m + error.
Proof. exact tensor_core. Qed.

Theorem products_of_short_steps : forall p terms_ c, short terms_ c -> (nonzeros p (multiplied c) <= steps c * terms_)%nat.
Proof. exact short_steps. Qed.

Theorem tensor_core_truncating_to_binary32 : forall fraction add p c m floor count most, truncates_or_rounds add -> 0 <= floor ->
  Forall (number binary32) (givens c) ->
  positive p c <= m -> negative p c <= m -> obeys fraction (RZ binary32) add p floor c ->
  (nonzeros p (multiplied c) <= count)%nat -> (steps c <= most)%nat -> (joins c <= most)%nat ->
  let t := bpow radix2 (-23) in
  let s := bpow radix2 (-149) in
  let a := (INR count + INR most) * bpow radix2 (- fraction) + 2 * INR most * t in a < 1 ->
  let error := (a * (m + floor) + INR most * s) / (1 - a) in
  Rabs (value fraction (RZ binary32) add p c - ideal p c) <= error /\ Rabs (value fraction (RZ binary32) add p c) <= m + error.
Proof. exact tensor_core_binary32. Qed.

(** On tensor cores, or elsewhere in any order: the larger of both bounds, over an enclosure. *)
Theorem dot_product_of_a_library : forall fraction add choice, truncates_or_rounds add -> forall p c q r h, 0 <= r -> 0 <= h -> forall ks bias,
  Forall (number binary32) bias ->
  (forall k, In k ks -> product_error binary32 choice r h (p k)) -> (forall k, In k ks -> Rabs (p k - c k) <= q k) ->
  forall floor count most kernel, 0 <= floor -> (nonzeros p ks <= count)%nat -> kernel_of fraction add p floor most ks bias kernel ->
  let magnitude := list_sum (map (fun k => Rabs (c k)) ks) + list_sum (map Rabs bias) in
  let carried := list_sum (map q ks) in
  let largest := (magnitude + Rabs (list_sum (map c ks) + list_sum bias)) / 2 + carried in
  let a := (INR count + INR most) * bpow radix2 (- fraction) + 2 * INR most * bpow radix2 (-23) in a < 1 ->
  let on_cores := (a * (largest + floor) + INR most * bpow radix2 (-149)) / (1 - a) in
  let u := unit_roundoff binary32 in
  let n := INR (count + length bias - 1) in
  let v := r * (magnitude + carried) + INR count * h in
  let classical := n * u * (magnitude + carried + v) in
  let elsewhere := v + Rmin classical (n * (u * ufp (largest + v + classical))) in
  let y := kernel_value fraction add choice p kernel in
  Rabs (y - (list_sum (map p ks) + list_sum bias)) <= Rmax on_cores elsewhere /\ Rabs y <= largest + Rmax on_cores elsewhere.
Proof. exact either_kernel. Qed.

Theorem tensor_core_exponent : forall emin w x m, Rabs w <= m -> Rabs x <= m ->
  bpow radix2 (exponent emin w + exponent emin x) <= Rmax (Rabs (w * x)) (Rmax (m * bpow radix2 emin) (bpow radix2 emin * bpow radix2 emin)).
Proof. exact aligned_exponent. Qed.

Theorem step_rounding_to_nearest : forall f, has_bits f -> forall choice x,
  Rabs (RN f choice x - x) <= unit_roundoff f * Rabs (RN f choice x) + 2 * eta f.
Proof. exact nearest_error. Qed.

(** * [8] No rounding *)

Theorem relu_is_exact : forall f t, number f t -> number f (relu t).
Proof. exact relu_exact. Qed.

Theorem relu_commutes_with_rounding : forall f choice t, has_bits f -> relu (RN f choice t) = RN f choice (relu t).
Proof. exact relu_commutes. Qed.

Theorem relu_over_an_enclosure : forall c e x, Rabs (x - c) <= e ->
  Rabs (relu x - relu c) <= Rmin e (Rmax (relu (c + e) - relu c) (relu c - relu (c - e))).
Proof. exact relu_enclosure. Qed.

Theorem maximum_is_exact : forall f x n, (forall j, (j <= n)%nat -> number f (x j)) -> number f (maximum x n).
Proof. exact maximum_exact. Qed.

Theorem maximum_moves_no_further : forall x c e n, (forall j, (j <= n)%nat -> Rabs (x j - c j) <= e) -> Rabs (maximum x n - maximum c n) <= e.
Proof. exact maximum_lipschitz. Qed.

(** * [11, 23] Products and quotients *)

Theorem product_over_an_enclosure : forall a b a' b' ea eb, Rabs (a' - a) <= ea -> Rabs (b' - b) <= eb ->
  Rabs (a' * b' - a * b) <= Rabs a * eb + Rabs b * ea + ea * eb /\ Rabs (a' * b' - a * b - ((a' - a) * b + a * (b' - b))) <= ea * eb.
Proof. exact product_enclosure. Qed.

Theorem quotient_over_an_enclosure : forall a b a' b' ea eb, Rabs (a' - a) <= ea -> Rabs (b' - b) <= eb -> eb < Rabs b ->
  b' <> 0 /\ Rabs (a' / b' - a / b) <= (ea + Rabs (a / b) * eb) / (Rabs b - eb).
Proof. exact quotient_enclosure. Qed.

(** * [13] The margin lemma, repaired *)

Theorem argmax_is_the_first_index : forall z n c, (0 < n)%nat -> (first_argmax z n c <-> argmax z n = c).
Proof. exact argmax_iff. Qed.

Theorem gaps_decide : forall z n c, (c < n)%nat ->
  (forall j, (j < c)%nat -> 0 < z c - z j) -> (forall j, (c < j < n)%nat -> 0 <= z c - z j) -> argmax z n = c.
Proof. exact gaps_keep_argmax. Qed.

Theorem margin_lemma_pairwise : forall z z' e n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs ((z' c - z' j) - (z c - z j)) <= e j) ->
  (forall j, (j < c)%nat -> z c - z j > e j) -> (forall j, (c < j < n)%nat -> z c - z j >= e j) ->
  argmax z' n = c.
Proof. exact pairwise. Qed.

Theorem margin_lemma_sup_norm : forall z z' d n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs (z' j - z j) <= d) ->
  (forall j, (j < n)%nat -> j <> c -> z c - z j > 2 * d) ->
  argmax z n = c /\ argmax z' n = c /\ forall j, (j < n)%nat -> j <> c -> z' j < z' c.
Proof. exact sup_norm. Qed.

Theorem margin_lemma_tie_rule : forall z z' d n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs (z' j - z j) <= d) ->
  (forall j, (j < c)%nat -> z c - z j > 2 * d) -> (forall j, (c < j < n)%nat -> z c - z j >= 2 * d) ->
  argmax z' n = c.
Proof. exact sup_norm_tie_rule. Qed.

Theorem margin_lemma_of_two_programs : forall z1 z2 g1 g2 e1 e2 n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs ((z1 c - z1 j) - g1 j) <= e1 j) ->
  (forall j, (j < n)%nat -> Rabs ((z2 c - z2 j) - g2 j) <= e2 j) ->
  (forall j, (j < c)%nat -> Rmin (g1 j - e1 j) (g2 j - e2 j) > 0) ->
  (forall j, (c < j < n)%nat -> Rmin (g1 j - e1 j) (g2 j - e2 j) >= 0) ->
  argmax z1 n = c /\ argmax z2 n = c.
Proof. exact both_programs. Qed.

Theorem margin_against_the_reported_bound : forall z1 z2 g1 g2 e1 e2 n c, (c < n)%nat ->
  (forall j, (j < n)%nat -> Rabs ((z1 c - z1 j) - g1 j) <= e1 j) ->
  (forall j, (j < n)%nat -> Rabs ((z2 c - z2 j) - g2 j) <= e2 j) ->
  (forall j, (j < n)%nat -> j <> c -> g1 j > e1 j + Rabs (g2 j - g1 j) + e2 j) ->
  argmax z1 n = c /\ argmax z2 n = c.
Proof. exact margin_exceeds_bound. Qed.

Theorem published_lemma_is_false : forall d, 0 < d ->
  let z := pair 0 (2 * d) in let z' := pair d d in
  (forall j, (j < 2)%nat -> Rabs (z' j - z j) <= d) /\ z 1%nat - z 0%nat >= 2 * d /\ argmax z 2 = 1%nat /\ argmax z' 2 = 0%nat.
Proof. exact published_lemma_false. Qed.

Theorem two_delta_is_sharp : forall d e, 0 < e < 2 * d ->
  let z := pair 0 (2 * d - e) in let z' := pair d (d - e) in
  (forall j, (j < 2)%nat -> Rabs (z' j - z j) <= d) /\ z 1%nat - z 0%nat = 2 * d - e /\ argmax z 2 = 1%nat /\ z' 1%nat < z' 0%nat.
Proof. exact factor_two_is_sharp. Qed.

Theorem rounded_strict_test_is_sound : forall f rnd, has_bits f -> Valid_rnd rnd -> forall t a b, number f t ->
  round radix2 (FLT_exp (least f) (bits f)) rnd (a - b) > t -> a - b > t.
Proof. exact strict_test_sound. Qed.

Theorem rounded_test_with_equality_is_not : forall choice, exists a b t,
  number binary16 a /\ number binary16 b /\ number binary16 t /\ RN binary16 choice (a - b) >= t /\ a - b < t.
Proof. exact test_with_equality_unsound. Qed.

Theorem rounded_least_gap_has_the_sign : forall f choice, has_bits f -> forall g e, number f g -> number f e ->
  (0 < RN f choice (g - e) <-> 0 < g - e) /\ (0 <= RN f choice (g - e) <-> 0 <= g - e).
Proof. exact least_gap_positive. Qed.

(** * [14] Composition *)

Theorem enclosures_compose : forall (f : nat -> (nat -> R) -> R) (c x e carried local : nat -> R) n,
  (forall i, (i < n)%nat -> c i = f i c) ->
  (forall i, (i < n)%nat -> (forall j, (j < i)%nat -> Rabs (x j - c j) <= e j) -> Rabs (f i x - f i c) <= carried i) ->
  (forall i, (i < n)%nat -> (forall j, (j < i)%nat -> Rabs (x j - c j) <= e j) -> Rabs (x i - f i x) <= local i) ->
  (forall i, (i < n)%nat -> carried i + local i <= e i) ->
  forall i, (i < n)%nat -> Rabs (x i - c i) <= e i.
Proof. exact composition. Qed.

(** A certificate of a network of dot products, ReLU, sums and maxima: every run predicts the class. *)
Theorem certified_class : forall a, has_bits (storage a) -> has_bits (accumulate a) -> has_bits (internal a) ->
  0 <= product_roundoff a -> 0 <= product_underflow a -> forall choice net z x e n,
  (forall i, (i < n)%nat -> ordered a net i) ->
  (forall i, (i < n)%nat -> z i = exactly net z i) ->
  (forall i, (i < n)%nat -> runs a choice net x i) ->
  (forall i, (i < n)%nat -> carried_by net z e i + local_error a net z e i <= e i) ->
  forall (logit : nat -> nat) classes c, (c < classes)%nat -> (forall j, (j < classes)%nat -> (logit j < n)%nat) ->
  (forall j, (j < c)%nat -> z (logit c) - z (logit j) > e (logit c) + e (logit j)) ->
  (forall j, (c < j < classes)%nat -> z (logit c) - z (logit j) >= e (logit c) + e (logit j)) ->
  argmax (fun j => x (logit j)) classes = c.
Proof. exact certificate. Qed.

Theorem certified_agreement : forall a1 a2 choice1 choice2 net1 net2 z1 z2 x1 x2 e1 e2 n1 n2 (logit1 logit2 : nat -> nat) classes c,
  (forall a, a = a1 \/ a = a2 -> has_bits (storage a) /\ has_bits (accumulate a) /\ has_bits (internal a)
     /\ 0 <= product_roundoff a /\ 0 <= product_underflow a) ->
  (forall i, (i < n1)%nat -> ordered a1 net1 i /\ z1 i = exactly net1 z1 i /\ runs a1 choice1 net1 x1 i
     /\ carried_by net1 z1 e1 i + local_error a1 net1 z1 e1 i <= e1 i) ->
  (forall i, (i < n2)%nat -> ordered a2 net2 i /\ z2 i = exactly net2 z2 i /\ runs a2 choice2 net2 x2 i
     /\ carried_by net2 z2 e2 i + local_error a2 net2 z2 e2 i <= e2 i) ->
  (c < classes)%nat -> (forall j, (j < classes)%nat -> (logit1 j < n1)%nat /\ (logit2 j < n2)%nat) ->
  (forall j, (j < classes)%nat -> j <> c ->
     z1 (logit1 c) - z1 (logit1 j) > e1 (logit1 c) + e1 (logit1 j) /\ z2 (logit2 c) - z2 (logit2 j) > e2 (logit2 c) + e2 (logit2 j)) ->
  argmax (fun j => x1 (logit1 j)) classes = argmax (fun j => x2 (logit2 j)) classes.
Proof. exact predictions_agree. Qed.

(** * [15] The analysis' own rounding *)

Theorem successor_is_above : forall f, has_bits f -> forall choice t, t <= succ radix2 (FLT_exp (least f) (bits f)) (RN f choice t).
Proof. exact step_up. Qed.

Theorem computed_sum_of_products : forall choice p t, Forall (number binary64) (terms t) ->
  (forall k, In k (prods t) -> 0 <= p k) -> (forall b, In b (terms t) -> 0 <= b) ->
  let n := INR (leaves t) in let u := unit_roundoff binary64 in n * u <= / 2 ->
  exact p t <= (run (RN binary64 choice) p t + n * (2 * eta binary64)) * (1 + 2 * n * u).
Proof. exact sum_of_products_up. Qed.

(** * [16, 17] Backward substitution *)

Theorem backward_substitution : forall lower upper below above d n,
  (forall i, (i < n)%nat -> sum i (fun j => lower i j * d j) - below i <= d i <= sum i (fun j => upper i j * d j) + above i) ->
  forall g, sum n (fun j => g j * d j) <= pull lower upper below above n g.
Proof. exact substitution. Qed.

Theorem backward_substitution_rounded : forall lower upper below above d n,
  (forall i, (i < n)%nat -> sum i (fun j => lower i j * d j) - below i <= d i <= sum i (fun j => upper i j * d j) + above i) ->
  forall (g : nat -> nat -> R) (off : nat -> nat -> R) (e : nat -> R),
  (forall j, (j < n)%nat -> Rabs (d j) <= e j) ->
  (forall i j, (j < i < n)%nat -> Rabs (g i j - through lower upper i (g (S i)) j) <= off i j) ->
  sum n (fun j => g n j * d j) <= sum n (fun i => cost below above i (g (S i) i) + sum i (fun j => off i j * e j)).
Proof. exact substitution_rounded. Qed.

Theorem certified_by_substitution : forall lower upper below above n (z x : nat -> R) (logit : nat -> nat) classes c,
  (forall i, (i < n)%nat -> sum i (fun j => lower i j * (x j - z j)) - below i <= x i - z i <= sum i (fun j => upper i j * (x j - z j)) + above i) ->
  (c < classes)%nat -> (forall j, (j < classes)%nat -> (logit j < n)%nat) ->
  let minus_gap j k := (if Nat.eq_dec k (logit j) then 1 else 0) - (if Nat.eq_dec k (logit c) then 1 else 0) in
  (forall j, (j < c)%nat -> z (logit c) - z (logit j) > pull lower upper below above n (minus_gap j)) ->
  (forall j, (c < j < classes)%nat -> z (logit c) - z (logit j) >= pull lower upper below above n (minus_gap j)) ->
  argmax (fun j => x (logit j)) classes = c.
Proof. exact substituted_certificate. Qed.

(** The zonotope method on a network: radii by the interval rule or by substitution, node by node; any lines that [admits] allows. *)
Theorem settled_radii : forall a, has_bits (storage a) -> has_bits (accumulate a) -> has_bits (internal a) ->
  0 <= product_roundoff a -> 0 <= product_underflow a -> forall choice net z x e n,
  (forall i, (i < n)%nat -> ordered a net i) ->
  (forall i, (i < n)%nat -> z i = exactly net z i) ->
  (forall i, (i < n)%nat -> runs a choice net x i) ->
  forall lower upper below above,
  (forall i, (i < n)%nat -> admits a net z e lower upper below above i) ->
  (forall i, (i < n)%nat -> settled a net z e lower upper below above i) ->
  forall i, (i < n)%nat -> Rabs (x i - z i) <= e i.
Proof. exact settled_enclosures. Qed.

Theorem class_certified_by_zonotope : forall a, has_bits (storage a) -> has_bits (accumulate a) -> has_bits (internal a) ->
  0 <= product_roundoff a -> 0 <= product_underflow a -> forall choice net z x e n,
  (forall i, (i < n)%nat -> ordered a net i) ->
  (forall i, (i < n)%nat -> z i = exactly net z i) ->
  (forall i, (i < n)%nat -> runs a choice net x i) ->
  forall lower upper below above,
  (forall i, (i < n)%nat -> admits a net z e lower upper below above i) ->
  (forall i, (i < n)%nat -> settled a net z e lower upper below above i) ->
  forall (logit : nat -> nat) classes c, (c < classes)%nat -> (forall j, (j < classes)%nat -> (logit j < n)%nat) ->
  let minus_gap j k := (if Nat.eq_dec k (logit j) then 1 else 0) - (if Nat.eq_dec k (logit c) then 1 else 0) in
  (forall j, (j < c)%nat -> z (logit c) - z (logit j) > pull lower upper below above n (minus_gap j)) ->
  (forall j, (c < j < classes)%nat -> z (logit c) - z (logit j) >= pull lower upper below above n (minus_gap j)) ->
  argmax (fun j => x (logit j)) classes = c.
Proof. exact zonotope_certificate. Qed.

Theorem lines_of_a_functional : forall g v d lower upper below above, lower * d - below <= v <= upper * d + above ->
  g * v <= (Rmax 0 g * upper - Rmax 0 (- g) * lower) * d + Rmax 0 g * above + Rmax 0 (- g) * below.
Proof. exact between_lines. Qed.

Theorem relu_line_above : forall c l h s d, 0 <= s <= 1 -> l <= c + d <= h ->
  relu (c + d) - relu c <= s * d + Rmax (relu l - relu c - s * (l - c)) (relu h - relu c - s * (h - c)).
Proof. exact relu_upper_line. Qed.

Theorem relu_line_below : forall c d, (0 < c -> d <= relu (c + d) - relu c) /\ (c <= 0 -> 0 <= relu (c + d) - relu c).
Proof. exact relu_lower_line. Qed.

Theorem relu_below_the_upper_slope : forall c s d, 0 <= s <= 1 ->
  s * d - (relu (c + d) - relu c) <= (if Rlt_dec 0 c then (1 - s) * c else - s * c).
Proof. exact relu_under. Qed.

Theorem relu_of_certain_sign : forall c d l h, l <= c + d <= h -> l <= c <= h ->
  (0 <= l -> relu (c + d) - relu c = d) /\ (h <= 0 -> relu (c + d) - relu c = 0).
Proof. exact relu_certain. Qed.

Theorem relu_in_a_zonotope : forall l h y, l < 0 < h -> l <= y <= h ->
  let s := h / (h - l) in Rabs (relu y - (s * y - s * l / 2)) <= - (s * l) / 2.
Proof. exact relu_zonotope. Qed.

Theorem maximum_between_lines : forall x c e n s a, (s <= n)%nat -> (forall j, (j <= n)%nat -> c j <= c s) ->
  (forall j, (j <= n)%nat -> Rabs (x j - c j) <= e j) ->
  (forall j, (j <= n)%nat -> j <> s -> (c j + e j) - (c s - e s) <= a) -> 0 <= a ->
  x s - c s <= maximum x n - maximum c n <= (x s - c s) + a.
Proof. exact maximum_lines. Qed.

Theorem maximum_below_a_constant : forall x c e n a, (forall j, (j <= n)%nat -> Rabs (x j - c j) <= e j) ->
  (forall j, (j <= n)%nat -> (c j + e j) - maximum c n <= a) -> maximum x n - maximum c n <= a.
Proof. exact maximum_constant_line. Qed.

(** ** The adjoint: exact with secant slopes *)

Theorem secant_of_relu : forall c d, exists s, 0 <= s <= 1 /\ relu (c + d) - relu c = s * d /\
  (0 <= c -> 0 <= c + d -> s = 1) /\ (c < 0 -> c + d < 0 -> s = 0).
Proof. exact relu_secant. Qed.

Theorem adjoint_is_exact : forall A n d rho, (forall i, (i < n)%nat -> d i = sum i (fun j => A i j * d j) + rho i) ->
  forall g, sum n (fun j => g j * d j) = adjoint A (fun v => v) n rho g.
Proof. exact adjoint_exact. Qed.

Theorem adjoint_with_secant_slopes : forall a, has_bits (storage a) -> has_bits (accumulate a) -> has_bits (internal a) ->
  0 <= product_roundoff a -> 0 <= product_underflow a -> forall choice net z x e n,
  (forall i, (i < n)%nat -> ordered a net i) ->
  (forall i, (i < n)%nat -> z i = exactly net z i) ->
  (forall i, (i < n)%nat -> runs a choice net x i) ->
  (forall i, (i < n)%nat -> carried_by net z e i + local_error a net z e i <= e i) ->
  exists A, (forall i, (i < n)%nat -> slopes_of net z x A i) /\
  forall g, Rabs (sum n (fun j => g j * (x j - z j))) <= adjoint A Rabs n (local_error a net z e) g.
Proof. exact secant_adjoint. Qed.

(** * [20] Random rounding *)

Theorem azuma_inequality : forall outcomes weight, (forall w, 0 <= weight w) -> sum outcomes weight = 1 ->
  forall n X c r t (held : nat -> (nat -> R) -> bool),
  mean_zero outcomes weight n X -> (forall k, of_past k (held k)) ->
  (forall k w, (k < n)%nat -> held k (fun j => X j w) = true -> Rabs (X k w) <= r k) -> (forall k, 0 <= r k) -> 0 <= t ->
  forall dec : forall w, {(forall k, (k < n)%nat -> held k (fun j => X j w) = true) /\
      sum n (fun k => c k * X k w) > t * sqrt (sum n (fun k => (c k * r k) * (c k * r k)))} + {~ _},
  probability outcomes weight (fun w => (forall k, (k < n)%nat -> held k (fun j => X j w) = true) /\
      sum n (fun k => c k * X k w) > t * sqrt (sum n (fun k => (c k * r k) * (c k * r k)))) dec <= exp (- (t * t) / 2).
Proof. exact azuma. Qed.

Theorem any_of_many_fails : forall outcomes weight, (forall w, 0 <= weight w) ->
  forall m (B : nat -> nat -> bool) q,
  (forall i, (i < m)%nat -> expectation outcomes weight (fun w => if B i w then (if forallb (fun j => negb (B j w)) (seq 0 i) then 1 else 0) else 0) <= q i) ->
  expectation outcomes weight (fun w => if existsb (fun i => B i w) (seq 0 m) then 1 else 0) <= sum m q.
Proof. exact union_bound. Qed.

Theorem signed_errors_keep_their_signs : forall lower upper below above n d rho,
  (forall i, (i < n)%nat -> sum i (fun j => lower i j * d j) - below i <= d i - rho i <= sum i (fun j => upper i j * d j) + above i) ->
  forall g, sum n (fun j => g j * d j) <= sum n (fun i => coefficient lower upper n g i * rho i) + pull lower upper below above n g.
Proof. exact pull_signed. Qed.

Theorem spread_of_a_dot_product : forall n m d v additions products, (forall k, (k < n)%nat -> 0 <= additions k <= d) ->
  (forall k, 0 <= products k) -> sum m products <= v ->
  sum n (fun k => additions k * additions k) + sum m (fun k => products k * products k) <= INR n * (d * d) + v * v.
Proof. exact spread_of_sums. Qed.

(** A functional of a network exceeds the worst case of what is biased, and t deviations of the rest, with probability exp(- t^2 / 2). *)
Theorem functional_under_random_rounding : forall outcomes weight, (forall w, 0 <= weight w) -> sum outcomes weight = 1 ->
  forall lower upper below above n m (X : nat -> nat -> R) owner r (held : nat -> (nat -> R) -> bool) (d : nat -> nat -> R) g t,
  mean_zero outcomes weight m X -> (forall k, of_past k (held k)) -> (forall k, (k < m)%nat -> (owner k < n)%nat) ->
  (forall k w, (k < m)%nat -> held k (fun j => X j w) = true -> Rabs (X k w) <= r k) -> (forall k, 0 <= r k) -> 0 <= t ->
  let rho i w := sum m (fun k => owned owner i k (X k w)) in
  forall radius, (forall i, (i < n)%nat -> sum m (fun k => owned owner i k (r k * r k)) <= radius i * radius i) ->
  (forall w, (forall k, (k < m)%nat -> held k (fun j => X j w) = true) -> forall i, (i < n)%nat ->
     sum i (fun j => lower i j * d j w) - below i <= d i w - rho i w <= sum i (fun j => upper i j * d j w) + above i) ->
  let c i := coefficient lower upper n g i in
  let level := pull lower upper below above n g + t * sqrt (sum n (fun i => (c i * radius i) * (c i * radius i))) in
  forall dec : forall w, {(forall k, (k < m)%nat -> held k (fun j => X j w) = true) /\ sum n (fun j => g j * d j w) > level} + {~ _},
  probability outcomes weight (fun w => (forall k, (k < m)%nat -> held k (fun j => X j w) = true) /\ sum n (fun j => g j * d j w) > level) dec
    <= exp (- (t * t) / 2).
Proof. exact probable_functional. Qed.

(** * Softmax *)

Theorem softmax_keeps_the_order : forall z n i j, (0 < n)%nat -> (softmax z n i < softmax z n j <-> z i < z j).
Proof. exact softmax_order. Qed.

Theorem softmax_in_the_sup_norm : forall z z' n d i, (i < n)%nat -> (forall j, (j < n)%nat -> Rabs (z' j - z j) <= d) ->
  Rabs (softmax z' n i - softmax z n i) <= tanh (d / 2) /\ tanh (d / 2) <= d / 2.
Proof. exact softmax_sup_norm. Qed.

Theorem logits_decide_more : forall z n i j, (i < n)%nat -> (j < n)%nat -> z j <= z i -> softmax z n i - softmax z n j <= (z i - z j) / 2.
Proof. exact probability_gap. Qed.

Theorem softmax_statistic_moves_by : forall n y d e, (forall j, 0 <= y j) -> sum n y = 1 -> (forall j, Rabs (d j) <= e) ->
  let mean := sum n (fun j => y j * d j) in
  let a j := d j - mean in
  0 <= ln (sum n (fun j => y j * exp (d j))) - mean <= Rmin (e * e / 2) (sum n (fun j => y j * (exp (Rabs (a j)) - 1 - Rabs (a j)))).
Proof. exact softmax_statistic. Qed.

Theorem softmax_with_rounding : forall n i (exps exps' : nat -> R) total q alpha beta delta, (i < n)%nat ->
  (forall j, 0 < exps j) -> 0 <= alpha < 1 -> 0 <= beta < 1 -> 0 <= delta <= 1 ->
  (forall j, Rabs (exps' j - exps j) <= alpha * exps j) -> Rabs (total - sum n exps') <= beta * sum n exps' ->
  Rabs (q - exps' i / total) <= delta * (exps' i / total) ->
  let p := exps i / sum n exps in
  (1 - alpha) * (1 - delta) / ((1 + alpha) * (1 + beta)) * p <= q <= (1 + alpha) * (1 + delta) / ((1 - alpha) * (1 - beta)) * p.
Proof. exact softmax_relative. Qed.

(** * [7, 21, 22] Chains, parts and functions *)

Theorem roundings_in_a_chain : forall u d k, 0 <= u -> (forall i, Rabs (d i) <= u) -> INR k * (INR k + 1) * u <= 1 ->
  Rabs (chain d k - 1) <= (INR k + 1) * u.
Proof. exact chain_of_roundings. Qed.

Theorem sums_in_parts : forall f, has_bits f -> forall b loss k n, 0 <= b -> (k <= n)%nat -> (forall i, 0 <= loss i) ->
  (forall i, (i < k)%nat -> loss i <= store_error f (b + sum i loss)) -> INR n * unit_roundoff f < 1 ->
  let r := INR n * (unit_roundoff f * b + eta f) / (1 - INR n * unit_roundoff f) in
  sum k loss <= INR n * store_error f (b + r).
Proof. exact losses_in_parts. Qed.

Theorem function_over_an_enclosure : forall f f' c e l, (forall x, Rabs (x - c) <= e -> derivable_pt_lim f x (f' x)) ->
  (forall x, Rabs (x - c) <= e -> Rabs (f' x) <= l) -> forall d, Rabs d <= e -> Rabs (f (c + d) - f c) <= l * Rabs d.
Proof. exact lipschitz_by_slope. Qed.

Theorem function_beyond_first_order : forall f f' c e m, (forall x, Rabs (x - c) <= e -> derivable_pt_lim f x (f' x)) ->
  (forall x, Rabs (x - c) <= e -> Rabs (f' x - f' c) <= m * Rabs (x - c)) ->
  forall d, Rabs d <= e -> Rabs (f (c + d) - f c - f' c * d) <= m * (d * d) / 2.
Proof. exact taylor_second_order. Qed.

Theorem slope_of_sigmoid : forall x, derivable_pt_lim sigmoid x (sigmoid x * (1 - sigmoid x)) /\ 0 < sigmoid x * (1 - sigmoid x) <= / 4.
Proof. exact sigmoid_slope. Qed.

Theorem sigmoid_is_monotone : forall x y, x <= y -> sigmoid x <= sigmoid y.
Proof. exact sigmoid_monotone. Qed.

(** * The premises can be met *)

(** One input, the two scores x and - x in half precision with sums in binary32: a certificate, and a run that it speaks of. *)
Theorem a_certificate_exists : forall choice,
  (forall i, (i < 3)%nat -> ordered half_single two_scores i /\ centre_of i = exactly two_scores centre_of i
     /\ runs half_single choice two_scores centre_of i
     /\ carried_by two_scores centre_of radius_of i + local_error half_single two_scores centre_of radius_of i <= radius_of i)
  /\ (forall j, (j < 2)%nat -> j <> 0%nat -> centre_of (S 0) - centre_of (S j) > radius_of (S 0) + radius_of (S j)).
Proof. exact two_scores_certified. Qed.

(** The zonotope method decides the same network, and a step of a tensor core obeys. *)
Theorem a_certificate_by_zonotope_exists : forall choice,
  (forall i, (i < 3)%nat -> admits half_single two_scores centre_of radius_of line_of line_of radius_of radius_of i
     /\ settled half_single two_scores centre_of radius_of line_of line_of radius_of radius_of i
     /\ runs half_single choice two_scores centre_of i)
  /\ centre_of 1 - centre_of 2
     > pull line_of line_of radius_of radius_of 3 (fun k => (if Nat.eq_dec k 2 then 1 else 0) - (if Nat.eq_dec k 1 then 1 else 0)).
Proof. exact two_scores_by_zonotope. Qed.

Theorem a_tensor_core_step_obeys : let c := Step 0 [0%nat] (Given 0) in let p := fun _ : nat => 1 in
  obeys 24 (RZ binary32) (RZ binary32) p 0 c /\ TensorCore.positive p c <= 1 /\ negative p c <= 1 /\ nonzeros p (multiplied c) = 1%nat
  /\ (INR 1 + INR 1) * bpow radix2 (-24) + 2 * INR 1 * bpow radix2 (-23) < 1.
Proof. exact one_step. Qed.
