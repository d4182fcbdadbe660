"""In what acts on verdicts: kept nodes, plans, guards, and runs that go on."""

from __future__ import annotations

from .record import mutant

_MIXED, _TUNE, _RUNS = "properties/test_mixed.py", "tune/test_tune.py", "cli/test_long_runs.py"
_THRESHOLD, _GUARDED = "guard/test_threshold.py", "guard/test_guarded.py"

ACTING = (
    mutant(
        "a cast rounds nothing",
        "ops/cast.py",
        "fresh = torch.where(x.radius == 0, torch.fmin(known, lost), lost)",
        "fresh = torch.zeros_like(lost)",
        f"{_MIXED}::test_the_bound_of_a_cast_is_attained",
    ),
    mutant(
        "a cast rounds what is known for certain as the rest",
        "ops/cast.py",
        "fresh = torch.where(x.radius == 0, torch.fmin(known, lost), lost)",
        "fresh = torch.fmin(known, lost)",
        f"{_MIXED}::test_the_bound_of_a_cast_is_attained",
    ),
    mutant(
        "half nodes read binary32 values",
        "mixed.py",
        "names = {name: _cast_of(name) for name in node.operands if name in cast and name is not None}",
        "names = {}",
        f"{_MIXED}::test_half_nodes_read_and_store_half_numbers_alone",
    ),
    mutant(
        "a weight of kept and half nodes is not rounded",
        "mixed.py",
        "names = {name: _own(name) if name in shared else name",
        "names = {name: name",
        f"{_MIXED}::test_casts_stand_where_half_nodes_read_binary32",
    ),
    mutant(
        "a chain is fused where its format changes",
        "evaluate.py",
        "return self.graph.inside_chains - apart",
        "return self.graph.inside_chains",
        f"{_MIXED}::test_a_fused_chain_ends_where_the_format_changes",
    ),
    mutant(
        "short sums of half nodes are long",
        "evaluate.py",
        "if node.name in self.wide_sums:",
        "if node.name not in self.wide:",
        f"{_MIXED}::test_sums_alone_are_kept",
    ),
    mutant(
        "an observed prediction is as good as a probable one",
        "tune/trials.py",
        'return found.verdict == "proved" or',
        'return found.verdict in ("proved", "observed") or',
        f"{_TUNE}::test_a_target_that_is_out_of_reach_is_told",
    ),
    mutant(
        "a target is rounded down",
        "tune/search.py",
        "return math.ceil(Fraction(str(target)) * count / 100)",
        "return math.floor(Fraction(str(target)) * count / 100)",
        f"{_TUNE}::test_a_target_is_the_decimal_number_that_was_given",
    ),
    mutant(
        "bounds are those of another set",
        "tune/trials.py",
        "return program.arithmetic, program.wide, program.wide_sums, label",
        "return program.arithmetic, program.wide_sums, label",
        f"{_TUNE}::test_no_program_is_bounded_twice",
    ),
    mutant(
        "a threshold leaves one score more above it",
        "guard/threshold.py",
        "n - 1 - allowed)[n - 1 - allowed]",
        "n - 2 - allowed)[n - 2 - allowed]",
        f"{_THRESHOLD}::test_the_risk_is_exceeded_no_more_often_than_said",
    ),
    mutant(
        "one score more is allowed than is proved",
        "guard/threshold.py",
        "    return low\n",
        "    return low + 1\n",
        f"{_THRESHOLD}::test_the_allowed_scores_are_the_most_by_rational_arithmetic",
    ),
    mutant(
        "a threshold is rounded to nearest",
        "guard/threshold.py",
        "return float(near if float(near) >= value else np.nextafter(near, np.float32(np.inf)))",
        "return float(near)",
        f"{_THRESHOLD}::test_a_threshold_is_rounded_upwards",
    ),
    mutant(
        "autocast reaches both runs of a guard",
        "guard/identity.py",
        'torch.autocast("cpu", enabled=False)',
        "torch.no_grad()",
        f"{_GUARDED}::test_autocast_changes_neither_run",
    ),
    mutant(
        "what is written into a guarded model is not counted",
        "guard/identity.py",
        "0 if tensor.is_inference() else tensor._version",
        "0",
        f"{_GUARDED}::test_a_guarded_model_that_was_changed_refuses_to_run_and_to_be_copied",
    ),
    mutant(
        "torch.compile reaches into a guarded model",
        "guard/guarded.py",
        "    @untraced\n",
        "",
        f"{_GUARDED}::test_torch_compile_changes_no_number_of_a_guard",
    ),
    mutant(
        "settings of modules are no part of a network",
        "guard/identity.py",
        "for key, value in _settings(part).items():\n            digest",
        "for key, value in ():\n            digest",
        "guard/test_identity.py::test_attributes_are_told_apart_and_copies_are_not",
    ),
    mutant(
        "inputs of the calibration are tried again",
        "guard/rows.py",
        "    if seen:\n",
        "    if seen > len(hashes):\n",
        "cli/test_guard.py::test_inputs_of_the_calibration_are_known_without_their_labels_and_in_another_order",
    ),
    mutant(
        "fp32 logits that are not finite agree",
        "guard/observe.py",
        " | (half.isfinite().all(1) & ~reference.isfinite().all(1))",
        "",
        f"{_GUARDED}::test_reference_logits_that_are_not_finite_agree_with_none",
    ),
    mutant(
        "a line is written behind what a kill cut off",
        "stream.py",
        'elif not lines.endswith(b"\\n"):',
        "elif False:",
        f"{_RUNS}::test_a_file_may_end_anywhere_by_steps_of_seven_bytes",
    ),
    mutant(
        "what is there is decided again by the others",
        "stream.py",
        "mine, complete, begun = starts[members.rank :: members.world], True, False",
        "mine, complete, begun = starts[members.rank + 1 :: members.world], True, False",
        f"{_RUNS}::test_two_processes_give_the_verdicts_of_one",
    ),
)
