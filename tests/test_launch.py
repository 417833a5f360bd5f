"""The launch scripts: what local.sh does with its processes, what the others would run."""

import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
SCRIPTS = ("local.sh", "tpu_pod.sh", "slurm.sbatch")
RANK = "import os, sys, time, signal; rank = int(os.environ['JAX_PROCESS_ID'])\n"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "LAUNCH_", "CUDA_"))}
    return kept | {"JAX_PLATFORMS": "cpu"} | extra


def start(count: int, code: str, **extra: str) -> subprocess.Popen:
    command = [str(LAUNCH / "local.sh"), str(count), sys.executable, "-c"]
    return subprocess.Popen(
        [*command, RANK + textwrap.dedent(code)],
        env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Tests that run in the background of a shell ignore interrupts, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def local(count: int, code: str, **extra: str) -> tuple[int, str, str]:
    process = start(count, code, **extra)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_for(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(list(folder.iterdir())) < count:
        assert time.monotonic() < deadline, "the processes did not start"
        time.sleep(0.05)


def test_every_process_gets_its_number_and_one_address():
    code = """
        names = ('JAX_NUM_PROCESSES', 'JAX_COORDINATOR_ADDRESS', 'JAX_LOCAL_DEVICE_IDS')
        found = ' '.join(str(os.environ.get(name)) for name in names)
        sys.stdout.write(f'{rank} {found}\\n')
    """
    status, out, _ = local(3, code)
    lines = sorted(line.removeprefix(f"[{line[1]}] ").split() for line in out.splitlines())
    assert status == 0
    assert [line[:2] + line[3:] for line in lines] == [
        [str(rank), "3", "None"] for rank in range(3)
    ]
    assert len({line[2] for line in lines}) == 1 and lines[0][2].startswith("127.0.0.1:")


def test_output_of_the_others_is_marked():
    _, out, err = local(2, "sys.stdout.write('out\\n'); sys.stderr.write('err\\n')")
    assert sorted(out.splitlines()) == ["[1] out", "out"]
    assert sorted(err.splitlines()) == ["[1] err", "err"]


def test_arguments_arrive_as_they_are():
    command = [str(LAUNCH / "local.sh"), "1", sys.executable, "-c",
               "import sys; print(sys.argv[1:])"]  # fmt: skip
    given = ["a b", "*", "--x=$HOME", ""]
    done = subprocess.run([*command, *given], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == repr(given)


def test_one_failure_stops_the_others():
    began = time.monotonic()
    status, _, err = local(3, "sys.exit(7) if rank == 1 else time.sleep(50)")
    assert status == 7 and time.monotonic() - began < 20
    assert "ended with status 7" in err


def test_processes_that_do_not_stop_are_killed():
    code = """
        if rank == 0:
            time.sleep(1)
            sys.exit(5)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(50)
    """
    began = time.monotonic()
    status, _, _ = local(2, code, LAUNCH_GRACE="1")
    assert status == 5 and time.monotonic() - began < 20


def test_a_process_that_finishes_first_stops_nobody():
    status, out, _ = local(2, "time.sleep(rank); print('done', rank)")
    assert status == 0 and sorted(out.split()) == ["0", "1", "[1]", "done", "done"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_and_saving_may_take_its_time(tmp_path, sent):
    code = f"""
        def save(*_):
            time.sleep(1.5)
            open({str(tmp_path)!r} + '/saved' + str(rank), 'w').close()
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        open({str(tmp_path)!r} + '/up' + str(rank), 'w').close()
        time.sleep(50)
    """
    process = start(2, code)
    wait_for(tmp_path, 2)
    process.send_signal(sent)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert sorted(path.name for path in tmp_path.glob("saved*")) == ["saved0", "saved1"]


def test_gpus_are_dealt_out():
    # In one write: unbuffered, `print` writes piece by piece, and those of two processes may mix.
    code = "sys.stdout.write(f\"{rank} {os.environ['JAX_LOCAL_DEVICE_IDS']}\\n\")"
    extra = {"JAX_PLATFORMS": "", "CUDA_VISIBLE_DEVICES": "3,4,5,6"}
    status, out, _ = local(2, code, **extra)
    assert status == 0 and sorted(out.splitlines()) == ["0 0,1", "[1] 1 2,3"]
    status, _, err = local(3, code, **extra)
    assert status == 2 and "4 GPUs do not divide over 3 processes" in err


@pytest.mark.parametrize("arguments", [[], ["2"], ["0", "true"], ["x", "true"]])
def test_wrong_usage(arguments):
    done = subprocess.run([str(LAUNCH / "local.sh"), *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and "launch/local.sh N COMMAND" in done.stderr


def fake(folder: Path, name: str, body: str) -> str:
    """A PATH on which the program `name` appends its arguments to `calls` and runs `body`."""
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {folder}/calls\n{body}\n')
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(("status", "requeued"), [(143, True), (0, False), (1, False)])
def test_slurm_queues_a_preempted_run_again(tmp_path, status, requeued):
    fake(tmp_path / "bin", "scontrol", "")
    path = fake(tmp_path / "bin", "srun", f"exit {status}")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "activate").write_text("export ACTIVE=yes\n")
    given = {"PATH": path, "SLURM_JOB_ID": "17", "VENV": str(venv)}
    done = subprocess.run(["bash", str(LAUNCH / "slurm.sbatch"), "--config=a b"],
                          env=environment(**given))  # fmt: skip
    calls = (tmp_path / "bin" / "calls").read_text().splitlines()
    assert done.returncode == status
    assert calls[0] == "srun --kill-on-bad-exit=1 python -m retina_jax.main --config=a b"
    assert calls[1:] == (["scontrol requeue 17"] if requeued else [])


def test_slurm_needs_an_environment(tmp_path):
    done = subprocess.run(["bash", str(LAUNCH / "slurm.sbatch")], cwd=tmp_path,
                          env=environment(), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "no virtual environment .venv; set VENV" in done.stderr


def test_tpu_pod_quotes_the_arguments_for_the_hosts(tmp_path):
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=LAUNCH, capture_output=True).returncode:
        pytest.skip("the script copies a commit, and this is no git checkout")
    path = fake(tmp_path / "bin", "gcloud", "")
    done = subprocess.run(
        [str(LAUNCH / "tpu_pod.sh"), "--config=x.py", "--config.name=it's $me"],
        env=environment(PATH=path, TPU="pod", ZONE="z"), capture_output=True, text=True,
    )  # fmt: skip
    calls = (tmp_path / "bin" / "calls").read_text()
    assert done.returncode == 0, done.stderr
    assert "tpu-vm scp" in calls and "pod:retina_jax.tar.gz --zone=z --worker=all" in calls
    assert "$uv venv --quiet --allow-existing --python=3.12" in calls  # theirs is 3.10
    assert r"retina_jax.main --config=x.py --config.name=it\'s\ \$me >" in calls


def test_tpu_pod_asks_for_its_variables():
    done = subprocess.run(
        [str(LAUNCH / "tpu_pod.sh")], env=environment(), capture_output=True, text=True
    )
    assert done.returncode != 0 and "set it to the name of the TPU" in done.stderr


@pytest.mark.parametrize("file", ["gke.yaml", "gke_tpu.yaml"])
def test_kubernetes_job_numbers_its_processes(file):
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((LAUNCH / file).read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    variables = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
    name = service["metadata"]["name"]
    assert spec["completionMode"] == "Indexed" and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == name
    address = variables["JAX_COORDINATOR_ADDRESS"]["value"]
    assert address.startswith(f"{job['metadata']['name']}-0.{name}:")
    assert (
        int(variables["JAX_NUM_PROCESSES"]["value"]) == spec["completions"] == spec["parallelism"]
    )
    # Each pod builds in a folder of its own.
    assert "cd /tmp/retina_jax &&" in pod["containers"][0]["args"][0]
    if file == "gke_tpu.yaml":
        slice_shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
        assert math.prod(map(int, slice_shape.split("x"))) == chips * spec["completions"]
    index = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_well_formed(script):
    path = str(LAUNCH / script)
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; checked the syntax only")
    done = subprocess.run(["shellcheck", "--exclude=SC1091", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
