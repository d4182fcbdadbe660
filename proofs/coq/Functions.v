(** Elementwise functions and softmax's statistic: theorems 7, 9, 21, 22 and 24 of bounds.md, in parts. *)
From Coq Require Import Reals ZArith List Lia Lra Psatz.
From PrecisionKit Require Import Model Rounding Softmax Azuma.
Open Scope R_scope.

(** ** Mean value and Taylor, over an enclosure *)

Theorem lipschitz_by_slope : forall f f' c e l, (forall x, Rabs (x - c) <= e -> derivable_pt_lim f x (f' x)) ->
  (forall x, Rabs (x - c) <= e -> Rabs (f' x) <= l) -> forall d, Rabs d <= e -> Rabs (f (c + d) - f c) <= l * Rabs d.
Proof.
  intros f f' c e l Hf Hl d Hd.
  assert (In : forall x, Rmin c (c + d) <= x <= Rmax c (c + d) -> Rabs (x - c) <= e).
  { intros x. revert Hd. unfold Rmin, Rmax, Rabs. destruct (Rle_dec c (c + d)), (Rcase_abs d), (Rcase_abs (x - c)); lra. }
  destruct (Rtotal_order d 0) as [H|[->|H]].
  - destruct (MVT_cor2 f f' (c + d) c ltac:(lra)) as [x [E Hx]].
    { intros x Hx. apply Hf, In. unfold Rmin, Rmax. destruct Rle_dec; lra. }
    replace (f (c + d) - f c) with (f' x * d) by lra. rewrite Rabs_mult. apply Rmult_le_compat_r; [apply Rabs_pos|].
    apply Hl, In. unfold Rmin, Rmax. destruct Rle_dec; lra.
  - rewrite Rplus_0_r. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
  - destruct (MVT_cor2 f f' c (c + d) ltac:(lra)) as [x [E Hx]].
    { intros x Hx. apply Hf, In. unfold Rmin, Rmax. destruct Rle_dec; lra. }
    replace (f (c + d) - f c) with (f' x * d) by lra. rewrite Rabs_mult. apply Rmult_le_compat_r; [apply Rabs_pos|].
    apply Hl, In. unfold Rmin, Rmax. destruct Rle_dec; lra.
Qed.

(** To the right, from above. *)
Lemma taylor_right : forall f f' c d m, 0 <= d -> (forall t, 0 <= t <= d -> derivable_pt_lim f (c + t) (f' (c + t))) ->
  (forall t, 0 <= t <= d -> f' (c + t) - f' c <= m * t) -> f (c + d) - f c - f' c * d <= m * (d * d) / 2.
Proof.
  intros f f' c d m Hd Hf Hm. destruct (Req_EM_T d 0) as [->|Hn]. { rewrite Rplus_0_r. lra. }
  set (g := fun t => f (c + t) - (f' c * t + m / 2 * (t * t))).
  destruct (MVT_cor2 g (fun t => f' (c + t) - (f' c + m * t)) 0 d ltac:(lra)) as [t [E Ht]].
  { intros t Ht. unfold g. apply derivable_pt_lim_minus.
    - replace (f' (c + t)) with (f' (c + t) * (0 + 1)) by ring.
      apply (derivable_pt_lim_comp (fun t => c + t) f).
      + apply (derivable_pt_lim_plus (fun _ => c) (fun t => t)). apply derivable_pt_lim_const. apply derivable_pt_lim_id.
      + apply Hf. exact Ht.
    - replace (f' c + m * t) with ((0 * t + f' c * 1) + (0 * (t * t) + m / 2 * (1 * t + t * 1))) by field.
      apply derivable_pt_lim_plus.
      + apply (derivable_pt_lim_mult (fun _ => f' c) (fun t => t)). apply derivable_pt_lim_const. apply derivable_pt_lim_id.
      + apply (derivable_pt_lim_mult (fun _ => m / 2) (fun t => t * t)). apply derivable_pt_lim_const.
        apply (derivable_pt_lim_mult (fun t => t) (fun t => t)); apply derivable_pt_lim_id. }
  unfold g in E. rewrite !Rplus_0_r in E.
  assert (B : (f' (c + t) - (f' c + m * t)) * (d - 0) <= 0).
  { specialize (Hm t ltac:(lra)). assert (0 <= (f' c + m * t - f' (c + t)) * d) by (apply Rmult_le_pos; lra). lra. }
  lra.
Qed.

(** [f'] has the Lipschitz constant m over the enclosure: a bound of the second derivative, where there is one. *)
Theorem taylor_second_order : forall f f' c e m, (forall x, Rabs (x - c) <= e -> derivable_pt_lim f x (f' x)) ->
  (forall x, Rabs (x - c) <= e -> Rabs (f' x - f' c) <= m * Rabs (x - c)) ->
  forall d, Rabs d <= e -> Rabs (f (c + d) - f c - f' c * d) <= m * (d * d) / 2.
Proof.
  intros f f' c e m Hf Hm.
  assert (Right : forall g g', (forall x, Rabs (x - c) <= e -> derivable_pt_lim g x (g' x)) ->
     (forall x, Rabs (x - c) <= e -> Rabs (g' x - g' c) <= m * Rabs (x - c)) -> forall d, 0 <= d <= e -> Rabs (g (c + d) - g c - g' c * d) <= m * (d * d) / 2).
  { intros g g' Hg Hgm d Hd.
    assert (In : forall t, 0 <= t <= d -> Rabs (c + t - c) <= e) by (intros t Ht; replace (c + t - c) with t by ring; rewrite Rabs_right; lra).
    apply Rabs_le. split.
    - assert (U := taylor_right (fun x => - g x) (fun x => - g' x) c d m ltac:(lra)). cbv beta in U.
      assert (A : forall t, 0 <= t <= d -> derivable_pt_lim (fun x => - g x) (c + t) (- g' (c + t))).
      { intros t Ht. apply derivable_pt_lim_opp. apply Hg, In, Ht. }
      specialize (U A). assert (B : forall t, 0 <= t <= d -> - g' (c + t) - - g' c <= m * t).
      { intros t Ht. assert (V := Hgm (c + t) (In t Ht)). replace (c + t - c) with t in V by ring. rewrite (Rabs_right t) in V by lra.
        generalize (Rle_abs (- (g' (c + t) - g' c))). rewrite Rabs_Ropp. lra. }
      specialize (U B). lra.
    - apply taylor_right; [lra| |].
      + intros t Ht. apply Hg, In, Ht.
      + intros t Ht. assert (V := Hgm (c + t) (In t Ht)). replace (c + t - c) with t in V by ring. rewrite (Rabs_right t) in V by lra.
        generalize (Rle_abs (g' (c + t) - g' c)). lra. }
  intros d Hd. destruct (Rle_lt_dec 0 d) as [H|H].
  - apply Right; try assumption. rewrite Rabs_right in Hd; lra.
  - (* reflected about the centre *)
    assert (M := Right (fun x => f (2 * c - x)) (fun x => - f' (2 * c - x))). cbv beta in M.
    assert (A : forall x, Rabs (x - c) <= e -> derivable_pt_lim (fun x => f (2 * c - x)) x (- f' (2 * c - x))).
    { intros x Hx. replace (- f' (2 * c - x)) with (f' (2 * c - x) * (0 - 1)) by ring.
      apply (derivable_pt_lim_comp (fun x => 2 * c - x) f).
      - apply (derivable_pt_lim_minus (fun _ => 2 * c) (fun x => x)). apply derivable_pt_lim_const. apply derivable_pt_lim_id.
      - apply Hf. replace (2 * c - x - c) with (- (x - c)) by ring. rewrite Rabs_Ropp. exact Hx. }
    assert (B : forall x, Rabs (x - c) <= e -> Rabs (- f' (2 * c - x) - - f' (2 * c - c)) <= m * Rabs (x - c)).
    { intros x Hx. replace (2 * c - c) with c by ring. replace (- f' (2 * c - x) - - f' c) with (- (f' (2 * c - x) - f' c)) by ring. rewrite Rabs_Ropp.
      replace (Rabs (x - c)) with (Rabs (2 * c - x - c)) by (replace (2 * c - x - c) with (- (x - c)) by ring; apply Rabs_Ropp).
      apply Hm. replace (2 * c - x - c) with (- (x - c)) by ring. rewrite Rabs_Ropp. exact Hx. }
    specialize (M A B (- d)). rewrite Rabs_left in Hd by exact H. specialize (M ltac:(lra)).
    replace (2 * c - (c + - d)) with (c + d) in M by ring. replace (2 * c - c) with c in M by ring.
    replace (f (c + d) - f c - - f' c * - d) with (f (c + d) - f c - f' c * d) in M by ring.
    replace (- d * - d) with (d * d) in M by ring. exact M.
Qed.

(** ** Sigmoid *)

Definition sigmoid (x : R) : R := / (1 + exp (- x)).

Theorem sigmoid_slope : forall x, derivable_pt_lim sigmoid x (sigmoid x * (1 - sigmoid x)) /\ 0 < sigmoid x * (1 - sigmoid x) <= / 4.
Proof.
  intros x. assert (P := exp_pos (- x)). split.
  - unfold sigmoid. replace (/ (1 + exp (- x)) * (1 - / (1 + exp (- x)))) with (- ((0 + exp (- x) * - 1)) / (Rsqr (1 + exp (- x)))) by (unfold Rsqr; field; lra).
    replace (- (0 + exp (- x) * - 1) / Rsqr (1 + exp (- x))) with ((0 * (1 + exp (- x)) - (0 + exp (- x) * - 1) * 1) / Rsqr (1 + exp (- x))) by (unfold Rsqr; field; lra).
    apply (derivable_pt_lim_ext (fun y => 1 / (1 + exp (- y)))). { intros y. unfold Rdiv. ring. }
    apply (derivable_pt_lim_div (fun _ => 1) (fun y => 1 + exp (- y))); [| |lra].
    + apply derivable_pt_lim_const.
    + apply (derivable_pt_lim_plus (fun _ => 1) (fun y => exp (- y))). apply derivable_pt_lim_const.
      apply (derivable_pt_lim_comp (fun y => - y) exp).
      * apply (derivable_pt_lim_opp (fun y => y)). apply derivable_pt_lim_id.
      * apply derivable_pt_lim_exp.
  - assert (0 < sigmoid x < 1).
    { unfold sigmoid. split; [apply Rinv_0_lt_compat; lra|]. apply Rmult_lt_reg_l with (1 + exp (- x)); [lra|]. rewrite Rinv_r by lra. lra. }
    split.
    + apply Rmult_lt_0_compat; lra.
    + generalize (Rle_0_sqr (sigmoid x - / 2)). unfold Rsqr. lra.
Qed.

Theorem sigmoid_monotone : forall x y, x <= y -> sigmoid x <= sigmoid y.
Proof.
  intros x y H. unfold sigmoid. assert (P := exp_pos (- y)). apply Rinv_le_contravar; [lra|].
  assert (exp (- y) <= exp (- x)) by (apply exp_monotone; lra). lra.
Qed.

(** ** The statistic of softmax: Jensen, Hoeffding and the second-order remainder *)

Lemma sum_one_pos : forall n y, (forall j, 0 <= y j) -> sum n y = 1 -> forall g, (forall j, 0 < g j) -> 0 < sum n (fun j => y j * g j).
Proof.
  intros n y Hy Ht g Hg. destruct (Rle_lt_or_eq_dec 0 (sum n (fun j => y j * g j))) as [H|H].
  - apply sum_nonneg. intros. apply Rmult_le_pos; [auto | left; auto].
  - exact H.
  - exfalso. assert (Z : forall j, (j < n)%nat -> y j = 0).
    { intros j Hj. rewrite (sum_without n j _ Hj) in H.
      assert (0 <= sum n (without j (fun j => y j * g j))).
      { apply sum_nonneg. intros k Hk. unfold without. destruct Nat.eq_dec; [lra|]. apply Rmult_le_pos; [auto | left; auto]. }
      assert (0 <= y j * g j) by (apply Rmult_le_pos; [auto | left; auto]).
      assert (E : y j * g j = 0) by lra. apply Rmult_integral in E. destruct E as [E|E]; [exact E|]. generalize (Hg j). lra. }
    rewrite (sum_ext n y (fun _ => 0 * 0)) in Ht by (intros; rewrite Z by assumption; ring). rewrite sum_scal in Ht. lra.
Qed.

Lemma hoeffding_slope : forall s t, -1 <= s <= 1 -> 0 < cosh t + s * sinh t.
Proof.
  intros s t Hs. assert (P := exp_pos t). assert (Q := exp_pos (- t)). unfold cosh, sinh.
  replace ((exp t + exp (- t)) / 2 + s * ((exp t - exp (- t)) / 2)) with (((1 + s) * exp t + (1 - s) * exp (- t)) / 2) by field.
  assert (0 <= (1 + s) * exp t) by (apply Rmult_le_pos; lra). assert (0 <= (1 - s) * exp (- t)) by (apply Rmult_le_pos; lra).
  destruct (Rle_lt_dec s 0); [assert (0 < (1 - s) * exp (- t)) by (apply Rmult_lt_0_compat; lra) | assert (0 < (1 + s) * exp t) by (apply Rmult_lt_0_compat; lra)]; lra.
Qed.

Lemma hoeffding_log : forall s e, -1 <= s <= 1 -> 0 <= e -> ln (cosh e + s * sinh e) - s * e <= e * e / 2.
Proof.
  intros s e Hs He. destruct (Req_EM_T e 0) as [->|Hn]. { rewrite sinh_0, cosh_0, Rmult_0_r, Rplus_0_r, ln_1. lra. }
  set (a := fun t => cosh t + s * sinh t). set (b := fun t => sinh t + s * cosh t).
  assert (Pa : forall t, 0 < a t) by (intros; apply hoeffding_slope; exact Hs).
  assert (Da : forall t, derivable_pt_lim a t (b t)).
  { intros t. unfold a, b. replace (sinh t + s * cosh t) with (sinh t + (0 * sinh t + s * cosh t)) by ring.
    apply derivable_pt_lim_plus. apply derivable_pt_lim_cosh. apply (derivable_pt_lim_mult (fun _ => s) sinh). apply derivable_pt_lim_const. apply derivable_pt_lim_sinh. }
  assert (Db : forall t, derivable_pt_lim b t (a t)).
  { intros t. unfold a, b. replace (cosh t + s * sinh t) with (cosh t + (0 * cosh t + s * sinh t)) by ring.
    apply derivable_pt_lim_plus. apply derivable_pt_lim_sinh. apply (derivable_pt_lim_mult (fun _ => s) cosh). apply derivable_pt_lim_const. apply derivable_pt_lim_cosh. }
  set (q := fun t => b t / a t).
  assert (Dq : forall t, derivable_pt_lim q t ((a t * a t - b t * b t) / Rsqr (a t))).
  { intros t. unfold q. apply (derivable_pt_lim_div b a); [apply Db | apply Da |]. generalize (Pa t). lra. }
  assert (q0 : q 0 = s). { unfold q, a, b. rewrite sinh_0, cosh_0. field. }
  assert (Hq : forall t, 0 < t -> q t - s <= t).
  { intros t Ht. destruct (MVT_cor2 q _ 0 t Ht (fun u _ => Dq u)) as [u [E Hu]]. rewrite q0 in E.
    assert (B : (a u * a u - b u * b u) / Rsqr (a u) <= 1).
    { unfold Rsqr. assert (P := Pa u). assert (0 < a u * a u) by (apply Rmult_lt_0_compat; assumption).
      apply Rmult_le_reg_r with (a u * a u); [assumption|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. generalize (Rle_0_sqr (b u)). unfold Rsqr. lra. }
    assert (0 <= (1 - (a u * a u - b u * b u) / Rsqr (a u)) * (t - 0)) by (apply Rmult_le_pos; lra). lra. }
  set (h := fun t => s * t + t * t / 2 - ln (a t)).
  destruct (MVT_cor2 h (fun t => s + t - q t) 0 e ltac:(lra)) as [t [E Ht]].
  { intros t Ht. unfold h. apply derivable_pt_lim_minus.
    - replace (s + t) with ((0 * t + s * 1) + (1 * t + t * 1) / 2) by field. apply derivable_pt_lim_plus.
      + apply (derivable_pt_lim_mult (fun _ => s) (fun t => t)). apply derivable_pt_lim_const. apply derivable_pt_lim_id.
      + unfold Rdiv. replace ((1 * t + t * 1) * / 2) with ((1 * t + t * 1) * / 2 + t * t * 0) by ring.
        apply (derivable_pt_lim_mult (fun t => t * t) (fun _ => / 2)).
        * apply (derivable_pt_lim_mult (fun t => t) (fun t => t)); apply derivable_pt_lim_id.
        * apply derivable_pt_lim_const.
    - unfold q. replace (b t / a t) with (/ a t * b t) by (unfold Rdiv; ring). apply (derivable_pt_lim_comp a ln).
      + apply Da.
      + apply derivable_pt_lim_ln. apply Pa. }
  unfold h in E. assert (a0 : a 0 = 1) by (unfold a; rewrite sinh_0, cosh_0; ring). rewrite a0, ln_1 in E.
  assert (0 <= (s + t - q t) * (e - 0)) by (apply Rmult_le_pos; [generalize (Hq t ltac:(lra)); lra | lra]).
  fold (a e). lra.
Qed.

Lemma sinh_ge : forall t, 0 <= t -> 2 * t <= exp t - exp (- t).
Proof.
  intros t Ht. destruct (Req_EM_T t 0) as [->|Hn]. { rewrite Ropp_0. lra. }
  destruct (MVT_cor2 sinh cosh 0 t ltac:(lra) (fun u _ => derivable_pt_lim_sinh u)) as [u [E Hu]].
  rewrite sinh_0 in E. assert (1 <= cosh u).
  { unfold cosh. assert (A := exp_ineq1_le u). assert (B := exp_ineq1_le (- u)). lra. }
  assert (0 <= (cosh u - 1) * (t - 0)) by (apply Rmult_le_pos; lra). unfold sinh in E at 1. lra.
Qed.

(** y is the softmax of the centre; d moves the scores. *)
Theorem softmax_statistic : forall n y d e, (forall j, 0 <= y j) -> sum n y = 1 -> (forall j, Rabs (d j) <= e) ->
  let mean := sum n (fun j => y j * d j) in
  let a j := d j - mean in
  0 <= ln (sum n (fun j => y j * exp (d j))) - mean <= Rmin (e * e / 2) (sum n (fun j => y j * (exp (Rabs (a j)) - 1 - Rabs (a j)))).
Proof.
  intros n y d e Hy Ht Hd mean a.
  assert (He : 0 <= e) by (generalize (Hd O) (Rabs_pos (d O)); lra).
  assert (Pos := sum_one_pos n y Hy Ht (fun j => exp (d j)) (fun j => exp_pos (d j))).
  set (S := sum n (fun j => y j * exp (d j))) in *.
  assert (Mean : forall c, sum n (fun j => y j * c) = c).
  { intros c. rewrite (sum_ext n _ (fun j => c * y j)) by (intros; ring). rewrite sum_scal, Ht. ring. }
  assert (Split : S = exp mean * sum n (fun j => y j * exp (a j))).
  { unfold S. rewrite <- sum_scal. apply sum_ext. intros j Hj. unfold a.
    replace (exp (d j)) with (exp mean * exp (d j - mean)) by (rewrite <- exp_plus; f_equal; ring). ring. }
  assert (PosA := sum_one_pos n y Hy Ht (fun j => exp (a j)) (fun j => exp_pos (a j))).
  assert (Log : ln S - mean = ln (sum n (fun j => y j * exp (a j)))) by (rewrite Split, ln_mult, ln_exp by (try apply exp_pos; assumption); ring).
  assert (ZeroA : sum n (fun j => y j * a j) = 0).
  { unfold a. rewrite (sum_ext n _ (fun j => y j * d j + y j * (- mean))) by (intros; ring). rewrite sum_plus, Mean. fold mean. ring. }
  rewrite Log. set (T := sum n (fun j => y j * exp (a j))) in *. split; [|apply Rmin_glb].
  - assert (1 <= T).
    { rewrite <- (Mean 1). rewrite <- (Rplus_0_r (sum n (fun j => y j * 1))), <- ZeroA, <- sum_plus. apply sum_le. intros j Hj.
      generalize (Rmult_le_compat_l (y j) _ _ (Hy j) (exp_ineq1_le (a j))). lra. }
    rewrite <- ln_1. destruct H as [H|H]; [left; apply ln_increasing; lra | rewrite H; lra].
  - rewrite <- Log.
    assert (Hm : - e <= mean <= e).
    { split.
      - rewrite <- (Mean (- e)). apply sum_le. intros j Hj. apply Rmult_le_compat_l; [apply Hy|]. generalize (Rle_abs (- d j)) (Hd j). rewrite Rabs_Ropp. lra.
      - rewrite <- (Mean e). apply sum_le. intros j Hj. apply Rmult_le_compat_l; [apply Hy|]. generalize (Rle_abs (d j)) (Hd j). lra. }
    destruct (Req_EM_T e 0) as [E0|En].
    + assert (Z : forall j, d j = 0).
      { intros j. destruct (Req_EM_T (d j) 0) as [Z|Z]; [exact Z|]. generalize (Rabs_pos_lt _ Z) (Hd j). lra. }
      assert (mean = 0) by lra. unfold S. rewrite (sum_ext n _ (fun j => y j * 1)) by (intros; rewrite Z, exp_0; ring). rewrite Mean, ln_1, E0. lra.
    + set (s := mean / e).
      assert (Hs : -1 <= s <= 1).
      { unfold s. split; apply Rmult_le_reg_r with e; try lra; unfold Rdiv; rewrite Rmult_assoc, Rinv_l by lra; lra. }
      assert (SB : S <= cosh e + s * sinh e).
      { assert (Cv : forall j, exp (d j) <= cosh e + d j / e * sinh e).
        { intros j. assert (Hdj : - e <= d j <= e) by (generalize (Rle_abs (d j)) (Rle_abs (- d j)) (Hd j); rewrite Rabs_Ropp; lra).
          set (r := (e + d j) / (2 * e)).
          assert (Hr : 0 <= r <= 1).
          { unfold r. split; [apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; lra]|].
            apply Rmult_le_reg_r with (2 * e); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra. }
          replace (d j) with (r * e + (1 - r) * (- e)) at 1 by (unfold r; field; lra).
          eapply Rle_trans. apply exp_convex; exact Hr. right. unfold cosh, sinh, r. field. lra. }
        apply Rle_trans with (sum n (fun j => y j * cosh e + sinh e / e * (y j * d j))).
        - apply sum_le. intros j Hj. generalize (Rmult_le_compat_l (y j) _ _ (Hy j) (Cv j)). unfold Rdiv. lra.
        - rewrite sum_plus, Mean, sum_scal. fold mean. right. unfold s. field. lra. }
      assert (L := hoeffding_log s e Hs He).
      assert (ln S <= ln (cosh e + s * sinh e)).
      { destruct SB as [SB|SB]; [left; apply ln_increasing; assumption | rewrite SB; lra]. }
      replace (s * e) with mean in L by (unfold s; field; lra). lra.
  - assert (LT : ln T <= T - 1).
    { assert (X := exp_ineq1_le (ln T)). rewrite exp_ln in X by exact PosA. lra. }
    apply Rle_trans with (T - 1); [exact LT|].
    assert (ET : T - 1 = sum n (fun j => y j * (exp (a j) - 1 - a j))).
    { rewrite (sum_ext n (fun j => y j * (exp (a j) - 1 - a j)) (fun j => y j * exp (a j) + (y j * (- 1) + (-1) * (y j * a j)))) by (intros; ring).
      rewrite !sum_plus, Mean, sum_scal, ZeroA. fold T. ring. }
    rewrite ET. apply sum_le. intros j Hj. apply Rmult_le_compat_l; [apply Hy|].
    unfold Rabs. destruct Rcase_abs as [H|H]; [|lra]. generalize (sinh_ge (- a j) ltac:(lra)). rewrite Ropp_involutive. lra.
Qed.

(** Softmax with rounded exponentials, sum and quotient: the relative errors multiply. *)
Theorem softmax_relative : forall n i (exps exps' : nat -> R) total q alpha beta delta, (i < n)%nat ->
  (forall j, 0 < exps j) -> 0 <= alpha < 1 -> 0 <= beta < 1 -> 0 <= delta <= 1 ->
  (forall j, Rabs (exps' j - exps j) <= alpha * exps j) -> Rabs (total - sum n exps') <= beta * sum n exps' ->
  Rabs (q - exps' i / total) <= delta * (exps' i / total) ->
  let p := exps i / sum n exps in
  (1 - alpha) * (1 - delta) / ((1 + alpha) * (1 + beta)) * p <= q <= (1 + alpha) * (1 + delta) / ((1 - alpha) * (1 - beta)) * p.
Proof.
  intros n i exps exps' total q alpha beta delta Hi Hp Ha Hb Hd He Ht Hq p.
  assert (E : forall j, (1 - alpha) * exps j <= exps' j <= (1 + alpha) * exps j).
  { intros j. generalize (Rle_abs (exps' j - exps j)) (Rle_abs (- (exps' j - exps j))) (He j). rewrite Rabs_Ropp. lra. }
  assert (PS : 0 < sum n exps) by (apply sum_pos; [lia | exact Hp]).
  set (S := sum n exps) in *. set (S' := sum n exps') in *.
  assert (ES : (1 - alpha) * S <= S' <= (1 + alpha) * S).
  { unfold S, S'. split; rewrite <- sum_scal; apply sum_le; intros; apply E. }
  assert (PS' : 0 < S') by (assert (0 < (1 - alpha) * S) by (apply Rmult_lt_0_compat; lra); lra).
  assert (ET : (1 - beta) * S' <= total <= (1 + beta) * S').
  { generalize (Rle_abs (total - S')) (Rle_abs (- (total - S'))). rewrite Rabs_Ropp. lra. }
  assert (PT : 0 < total) by (assert (0 < (1 - beta) * S') by (apply Rmult_lt_0_compat; lra); lra).
  assert (Pi := Hp i). assert (Ei := E i).
  assert (Pi' : 0 < exps' i) by (assert (0 < (1 - alpha) * exps i) by (apply Rmult_lt_0_compat; lra); lra).
  set (r := exps' i / total) in *. assert (Pr : 0 < r) by (apply Rdiv_lt_0_compat; assumption).
  assert (EQ : (1 - delta) * r <= q <= (1 + delta) * r).
  { generalize (Rle_abs (q - r)) (Rle_abs (- (q - r))). rewrite Rabs_Ropp. lra. }
  assert (Lo : (1 - beta) * ((1 - alpha) * S) <= total).
  { apply Rle_trans with ((1 - beta) * S'); [apply Rmult_le_compat_l; lra | lra]. }
  assert (Hi' : total <= (1 + beta) * ((1 + alpha) * S)).
  { apply Rle_trans with ((1 + beta) * S'); [lra | apply Rmult_le_compat_l; lra]. }
  assert (P1 : 0 < (1 - beta) * ((1 - alpha) * S)) by (repeat apply Rmult_lt_0_compat; lra).
  assert (P2 : 0 < (1 + beta) * ((1 + alpha) * S)) by (repeat apply Rmult_lt_0_compat; lra).
  assert (Up : r <= (1 + alpha) * exps i / ((1 - beta) * ((1 - alpha) * S))).
  { unfold r, Rdiv. apply Rmult_le_compat; try lra. left; apply Rinv_0_lt_compat; exact PT. apply Rinv_le_contravar; assumption. }
  assert (Down : (1 - alpha) * exps i / ((1 + beta) * ((1 + alpha) * S)) <= r).
  { unfold r, Rdiv. apply Rmult_le_compat; try lra.
    - apply Rmult_le_pos; lra.
    - left; apply Rinv_0_lt_compat; exact P2.
    - apply Rinv_le_contravar; assumption. }
  split.
  - apply Rle_trans with ((1 - delta) * r); [|lra].
    apply Rle_trans with ((1 - delta) * ((1 - alpha) * exps i / ((1 + beta) * ((1 + alpha) * S)))).
    + right. unfold p. field. repeat split; lra.
    + apply Rmult_le_compat_l; lra.
  - apply Rle_trans with ((1 + delta) * r); [lra|].
    apply Rle_trans with ((1 + delta) * ((1 + alpha) * exps i / ((1 - beta) * ((1 - alpha) * S)))).
    + apply Rmult_le_compat_l; lra.
    + right. unfold p. field. repeat split; lra.
Qed.

(** ** Chains of roundings *)

Fixpoint chain (d : nat -> R) (k : nat) : R := match k with O => 1 | S k => chain d k * (1 + d k) end.

(** [k] factors [1 + d], [|d| <= u], differ from 1 by at most [(k + 1) u] as long as [k (k + 1) u <= 1]. *)
Theorem chain_of_roundings : forall u d k, 0 <= u -> (forall i, Rabs (d i) <= u) -> INR k * (INR k + 1) * u <= 1 ->
  Rabs (chain d k - 1) <= (INR k + 1) * u.
Proof.
  intros u d k Hu Hd Hk.
  (* |chain - 1| <= k u / (1 - k u), by induction on the length *)
  assert (G : forall m, INR m * u < 1 -> Rabs (chain d m - 1) * (1 - INR m * u) <= INR m * u).
  { induction m as [|m IH]; intros Hm.
    - simpl. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. lra.
    - rewrite S_INR in *. assert (N := pos_INR m). specialize (IH ltac:(lra)).
      set (x := Rabs (chain d m - 1)) in *. assert (X : 0 <= x) by apply Rabs_pos.
      assert (E : Rabs (chain d (S m) - 1) <= x * (1 + u) + u).
      { simpl. replace (chain d m * (1 + d m) - 1) with ((chain d m - 1) * (1 + d m) + d m) by ring.
        eapply Rle_trans. apply Rabs_triang. apply Rplus_le_compat; [|apply Hd]. rewrite Rabs_mult. apply Rmult_le_compat_l; [exact X|].
        eapply Rle_trans. apply Rabs_triang. rewrite Rabs_R1. generalize (Hd m). lra. }
      set (a := INR m * u) in *. assert (A : 0 <= a) by (apply Rmult_le_pos; lra).
      assert (F : (x * (1 + u) + u) * (1 - (a + u)) <= a + u).
      { assert (x * (1 - a) * (1 + u) <= a * (1 + u)) by (apply Rmult_le_compat_r; lra).
        assert (0 <= x * (u * (1 + u))) by (apply Rmult_le_pos; [exact X | apply Rmult_le_pos; lra]).
        assert (0 <= u * u) by (apply Rmult_le_pos; lra). lra. }
      replace ((INR m + 1) * u) with (a + u) by (unfold a; ring).
      eapply Rle_trans with (2 := F). apply Rmult_le_compat_r; [|exact E]. replace (a + u) with ((INR m + 1) * u) by (unfold a; ring). lra. }
  assert (N := pos_INR k). set (K := INR k) in *.
  assert (S1 : K * u * (K + 1) <= 1) by lra.
  assert (Ku : 0 <= K * u) by (apply Rmult_le_pos; lra).
  destruct (Req_EM_T u 0) as [->|Hn].
  - assert (H := G k ltac:(fold K; lra)). fold K in H. rewrite !Rmult_0_r in *. lra.
  - destruct k as [|k'].
    + simpl. unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply Rmult_le_pos; lra.
    + assert (K1 : 1 <= K) by (unfold K; apply (le_INR 1); lia).
      assert (Lt : K * u <= / 2).
      { assert (K * u * 2 <= K * u * (K + 1)) by (apply Rmult_le_compat_l; lra). lra. }
      assert (H := G (S k') ltac:(fold K; lra)). fold K in H.
      apply Rmult_le_reg_r with (1 - K * u); [lra|]. eapply Rle_trans. exact H.
      assert (K * u * (K + 1) * u <= 1 * u) by (apply Rmult_le_compat_r; lra). lra.
Qed.

(** ** Sums in parts *)

(** At most k operations, each on a magnitude of at most [b] and what was lost before, each losing at most the error of a store. *)
Theorem losses_in_parts : forall f, (0 < bits f)%Z -> forall b loss k n, 0 <= b -> (k <= n)%nat -> (forall i, 0 <= loss i) ->
  (forall i, (i < k)%nat -> loss i <= store_error f (b + sum i loss)) -> INR n * unit_roundoff f < 1 ->
  let r := INR n * (unit_roundoff f * b + eta f) / (1 - INR n * unit_roundoff f) in
  sum k loss <= INR n * store_error f (b + r).
Proof.
  intros f Hf b loss k n Hb Hkn Hl Hk Hn r. set (u := unit_roundoff f) in *. set (h := eta f) in *.
  assert (Hu : 0 < u) by apply unit_pos. assert (Hh : 0 < h) by apply eta_pos.
  assert (N : 0 <= INR n) by apply pos_INR.
  assert (Er : INR n * (u * (b + r) + h) = r) by (unfold r; field; lra).
  assert (Rpos : 0 <= r).
  { unfold r. apply Rmult_le_pos; [apply Rmult_le_pos; [exact N|]|left; apply Rinv_0_lt_compat; lra].
    assert (0 <= u * b) by (apply Rmult_le_pos; lra). lra. }
  assert (SE : forall m, 0 <= m -> store_error f m <= u * m + h).
  { intros m Hm. unfold store_error. fold u h. assert (A := ufp_le m). rewrite (Rabs_right m) in A by lra.
    assert (u * ufp m <= u * m) by (apply Rmult_le_compat_l; lra). assert (0 <= u * m) by (apply Rmult_le_pos; lra). apply Rmax_lub; lra. }
  assert (Each : u * (b + r) + h <= r \/ n = O).
  { destruct n as [|n']; [right; reflexivity | left]. assert (1 <= INR (S n')) by (apply (le_INR 1); lia).
    assert (0 <= u * (b + r) + h). { assert (0 <= u * (b + r)) by (apply Rmult_le_pos; lra). lra. }
    assert (1 * (u * (b + r) + h) <= INR (S n') * (u * (b + r) + h)) by (apply Rmult_le_compat_r; assumption). lra. }
  assert (Q : 0 <= u * (b + r) + h). { assert (0 <= u * (b + r)) by (apply Rmult_le_pos; lra). lra. }
  assert (G : forall m, (m <= k)%nat -> sum m loss <= INR m * (u * (b + r) + h) /\ sum m loss <= r).
  { induction m as [|m IH]; intros Hm.
    - simpl. split; [lra | exact Rpos].
    - destruct (IH ltac:(lia)) as [I1 I2]. assert (P : 0 <= sum m loss) by (apply sum_nonneg; auto).
      assert (L := Hk m ltac:(lia)). assert (L2 := SE (b + sum m loss) ltac:(lra)).
      assert (u * (b + sum m loss) <= u * (b + r)) by (apply Rmult_le_compat_l; lra).
      assert (A : sum (S m) loss <= INR (S m) * (u * (b + r) + h)) by (rewrite S_INR; simpl sum; lra).
      split; [exact A|]. apply Rle_trans with (INR n * (u * (b + r) + h)); [|lra]. eapply Rle_trans. exact A. apply Rmult_le_compat_r; [exact Q | apply le_INR; lia]. }
  assert (F : forall m, (m <= k)%nat -> sum m loss <= INR m * store_error f (b + r)).
  { induction m as [|m IH]; intros Hm; [simpl; lra|].
    destruct (G m ltac:(lia)) as [_ I2]. assert (P : 0 <= sum m loss) by (apply sum_nonneg; auto). specialize (IH ltac:(lia)).
    assert (L := Hk m ltac:(lia)).
    assert (M : store_error f (b + sum m loss) <= store_error f (b + r)).
    { unfold store_error. apply Rle_max_compat_r. apply Rmult_le_compat_l; [apply Rlt_le; exact Hu|]. apply ufp_monotone. rewrite !Rabs_right by lra. lra. }
    rewrite S_INR. simpl sum. lra. }
  eapply Rle_trans. apply F. apply le_n. apply Rmult_le_compat_r; [|apply le_INR; exact Hkn].
  unfold store_error. eapply Rle_trans with (2 := Rmax_r _ _). fold h. lra.
Qed.
