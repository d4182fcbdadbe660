"""Training: what it leaves, and that a run that was killed ends with the same bits."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from precisionkit.cli import main
from precisionkit.errors import UnusableModelError, UsageError
from precisionkit.models import load_model
from precisionkit.training import Job, Output, Settings, train
from precisionkit.training.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
DROPPED = "tests.training.networks:dropped"


def settings(**changes):
    return Settings(**{"arch": "digits_cnn", "data": "digits", "batch": 64, "epochs": 2, "precision": "fp16"} | changes)


def trained(folder, **changes):
    return train(Job.load(settings(**changes)), Output(folder))


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one)


@pytest.mark.parametrize(
    ("precision", "weight", "norm"),
    [
        ("fp32", torch.float32, torch.float32),
        ("fp16", torch.float16, torch.float32),
        ("bf16", torch.bfloat16, torch.float32),
        ("mixed", torch.float32, torch.float32),
        ("strict-fp16", torch.float16, torch.float16),
    ],
)
def test_every_precision_learns_and_stores_what_it_says(tmp_path, precision, weight, norm):
    done = trained(tmp_path, precision=precision, epochs=4)
    assert done.history[-1].accuracy > 0.8
    assert done.history[-1].loss < done.history[0].loss
    found = weights(tmp_path)
    assert found["conv1.weight"].dtype == weight
    assert found["bn1.weight"].dtype == norm
    optimizer = read_checkpoint(tmp_path, torch.device("cpu"))[2]["optimizer"]
    assert {state["momentum_buffer"].dtype for state in optimizer["state"].values()} == {weight, norm}
    assert load_model(done.path).preprocess.mean is not None


@pytest.mark.parametrize("precision", ["fp16", "strict-fp16"])
@pytest.mark.parametrize(("optimizer", "tensor"), [("adam", "exp_avg_sq"), ("rmsprop", "square_avg")])
def test_the_optimizers_state_is_half(tmp_path, precision, optimizer, tensor):
    trained(tmp_path, precision=precision, optimizer=optimizer, epsilon=1e-3, epochs=1, limit=128)
    state = read_checkpoint(tmp_path, torch.device("cpu"))[2]["optimizer"]["state"]
    assert state[0][tensor].dtype == torch.float16


def test_the_metrics_have_a_row_for_each_epoch(tmp_path):
    done = trained(tmp_path)
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == ["1", "2"]
    assert [float(row["accuracy"]) for row in found] == [epoch.accuracy for epoch in done.history]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained(tmp_path / name, seed=seed, epochs=1)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_loss_scale_that_is_a_power_of_two_changes_no_bit_in_binary32(tmp_path, optimizer):
    """Nothing underflows in binary32, so that the scale, carried through the optimizer, cancels exactly."""
    for name, scale in (("plain", 1.0), ("scaled", 1024.0)):
        trained(tmp_path / name, precision="fp32", optimizer=optimizer, loss_scale=scale, weight_decay=2.0**-10, rate=2.0**-8, epochs=1)
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "scaled"))


def test_a_module_kept_in_fp32_is_stored_and_updated_in_fp32(tmp_path):
    trained(tmp_path, keep_fp32=("fc",), epochs=1)
    found = weights(tmp_path)
    assert (found["fc.weight"].dtype, found["conv2.weight"].dtype) == (torch.float32, torch.float16)


def command(folder, *options):
    arguments = ["train", DROPPED, "--data", "digits", "--batch", "32", "--epochs", "4", "--precision", "fp16", "--optimizer", "adam"]
    arguments += ["--epsilon", "1e-3", "--threads", "1", "--checkpoint-every", "7", "-q", "--out", str(folder), *options]
    return [sys.executable, "-m", "precisionkit", *arguments]


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    subprocess.run(command(tmp_path / "whole"), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    random.seed(7)
    kills = 0
    while True:
        running = subprocess.Popen(command(tmp_path / "killed", "--resume"), cwd=ROOT, stdout=subprocess.DEVNULL)
        if kills < 4:
            checkpoint = tmp_path / "killed" / "checkpoint.pt"
            before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
            while running.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns != before):
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.2))  # into the steps after it, or the writing of the next one
            running.send_signal(signal.SIGKILL)
            kills += running.wait() == -signal.SIGKILL
            if running.returncode == 0:
                break
        elif running.wait() == 0:
            break
    assert kills >= 2  # it was killed while it ran
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    killed, whole = ([row | {"seconds": ""} for row in rows(tmp_path / name)] for name in ("killed", "whole"))
    assert killed == whole


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_run_interrupted_at_any_step_ends_with_the_same_bits(tmp_path, precision, optimizer):
    job = Job.load(settings(arch=DROPPED, precision=precision, optimizer=optimizer, epsilon=1e-3, limit=320, epochs=2))

    class StoppedError(Exception):
        pass

    def stop_at(step):
        def on_step(run):
            if run.progress.epoch * run.steps + run.progress.step == step:
                raise StoppedError

        return on_step

    train(job, Output(tmp_path / "whole", every=2))
    for step in (1, 3, 4, 5, 8, 9):
        with pytest.raises(StoppedError):
            train(job, Output(tmp_path / "parts", every=2, resume=True), on_step=stop_at(step))
    train(job, Output(tmp_path / "parts", every=2, resume=True))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_checkpoint_with_one_flipped_bit_is_refused(tmp_path):
    trained(tmp_path, epochs=1)
    content = bytearray((tmp_path / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(UnusableModelError, match="is damaged or of another version"):
        train(settings(epochs=2), Output(tmp_path, resume=True))


def test_settings_that_are_equal_in_effect_are_not_refused(tmp_path):
    trained(tmp_path, epochs=1)
    assert len(train(settings(epochs=2, rate=0.01, epsilon=1e-3), Output(tmp_path, resume=True)).history) == 2


def test_fewer_epochs_than_were_begun_are_refused(tmp_path):
    trained(tmp_path, epochs=2)
    with pytest.raises(UsageError, match="has done 2 epochs already, more than 1"):
        train(settings(epochs=1), Output(tmp_path, resume=True))


def test_more_epochs_can_be_asked_for_later(tmp_path):
    trained(tmp_path / "whole", epochs=2)
    trained(tmp_path / "parts", epochs=1)
    train(Job.load(settings()), Output(tmp_path / "parts", resume=True))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def torchrun(folder, *options):
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *command(folder, *options)[1:]]


def test_two_processes_train_one_network_and_resume(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for folder, options in (("whole", ()), ("parts", ("--epochs", "2")), ("parts", ("--resume",))):
        done = subprocess.run(torchrun(tmp_path / folder, *options), cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    subprocess.run(command(tmp_path / "alone"), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    together, alone = weights(tmp_path / "whole"), weights(tmp_path / "alone")
    assert not same(together, alone)  # other dropout, batch statistics by process: both learn, with other bits
    assert all(float(rows(tmp_path / name)[-1]["accuracy"]) > 0.7 for name in ("whole", "alone"))


@pytest.mark.parametrize(("world", "said"), [("1", "done, finalised"), ("2", "done")])
def test_one_of_several_processes_ends_without_finalising_its_interpreter(world, said):
    program = "import atexit; from precisionkit.processes import leave; atexit.register(print, end=', finalised'); print('done', end=''); leave(3)"
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"WORLD_SIZE": world}, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, said)


def invoke(*arguments):
    return CliRunner().invoke(main, ["train", *arguments, "-q"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("digits_cnn", "--data", "digits", "--lr", "nan"), "The setting rate is nan, but must be a finite number of at least 0."),
        (("nothing", "--data", "digits"), "Unknown architecture 'nothing'"),
        (("mnist_dnn", "--data", "digits"), "takes inputs of shape (1, 28, 28), but those of digits have (1, 8, 8)"),
        (("digits_cnn", "--data", "digits", "--keep-fp32", "fc9"), "The network has no module 'fc9' to keep in fp32: it has conv1, bn1"),
        (("digits_cnn", "--data", "digits", "--precision", "mixed", "--loss-scale", "2"), "The precision mixed scales the loss by itself"),
        (("digits_cnn", "--data", "digits", "--loss-scale", "0"), "The setting loss_scale is 0.0, but must be a finite number above 0."),
        (("digits_cnn", "--data", "digits", "--device", "tpu"), "Unknown device 'tpu': give cpu or cuda."),
    ],
)
def test_wrong_use_is_told_in_a_sentence(tmp_path, options, message):
    result = invoke(*options, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")


def test_a_run_is_not_overwritten_nor_continued_as_another(tmp_path):
    trained(tmp_path, epochs=1)
    common = ("digits_cnn", "--data", "digits", "--batch", "64", "--epochs", "2", "--precision", "fp16", "--out", str(tmp_path))
    assert "holds a run already: add --resume" in invoke(*common).stderr
    result = invoke(*common, "--resume", "--seed", "5")
    assert (result.exit_code, "because the setting seed was 0 and is 5" in result.stderr) == (2, True)
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    assert "is damaged or of another version" in invoke(*common, "--resume").stderr


def test_a_set_without_a_test_part_needs_one(tmp_path):
    import numpy as np

    np.savez(tmp_path / "data.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros(4, int))
    result = invoke("digits_cnn", "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run"))
    assert "has no part of its own for testing: name another one with --test." in result.stderr


def test_broken_training_has_its_own_exit_code(tmp_path):
    result = invoke(
        "digits_cnn", "--data", "digits", "--precision", "fp16", "--optimizer", "adam", "--epsilon", "1e-8", "--out", str(tmp_path / "r")
    )
    assert result.exit_code == 1
    assert "Training broke: the loss is nan after step 2 of epoch 1." in result.stderr


def test_the_tensorboard_log_has_the_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    script = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
log = EventAccumulator(sys.argv[1]); log.Reload()
import json; print(json.dumps([(event.step, event.value) for event in log.Scalars("accuracy")]))
"""
    train(Job.load(settings(epochs=1)), Output(tmp_path, tensorboard=True))
    done = train(Job.load(settings(epochs=3)), Output(tmp_path, tensorboard=True, resume=True))
    read = subprocess.run([sys.executable, "-c", script, str(tmp_path / "tensorboard")], capture_output=True, text=True, check=True)
    logged = json.loads(read.stdout)
    assert [step for step, _ in logged] == [1, 2, 3]
    assert [value for _, value in logged] == pytest.approx([epoch.accuracy for epoch in done.history])


def test_going_on_with_nothing_is_told(tmp_path):
    result = CliRunner().invoke(
        main, ["train", "digits_cnn", "--data", "digits", "--epochs", "1", "--resume", "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 0
    assert f"There is no run in {tmp_path / 'run'} to go on with: it begins anew." in result.stderr.replace("\n", " ")
