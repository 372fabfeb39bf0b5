"""The files of `launch/`, as far as they can be checked without a cluster."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MANIFESTS = sorted(LAUNCH.glob("*.yaml"))
STOPPED = 75

NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 40}


def closed(required: tuple[str, ...] = (), **properties: dict) -> dict:
    """The JSON schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# The fields of jobset.x-k8s.io/v1alpha2 that the manifests may use, after JobSet's reference and
# CRD. The template of a job is checked by Kubernetes' own schema.
JOBSET = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=closed(
        ("name",),
        name=NAME,
        annotations={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    spec=closed(
        ("replicatedJobs",),
        replicatedJobs={
            "type": "array",
            "minItems": 1,
            "items": closed(
                ("name", "template"),
                name=NAME,
                replicas={"type": "integer", "minimum": 0},
                template={"type": "object"},
            ),
        },
        network=closed(
            enableDNSHostnames={"type": "boolean"},
            subdomain={"type": "string"},
            publishNotReadyAddresses={"type": "boolean"},
        ),
        failurePolicy=closed(
            maxRestarts={"type": "integer", "minimum": 0},
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={
                "type": "array",
                "items": closed(
                    ("action",),
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={
                        "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
                    },
                    onJobFailureReasons={
                        "type": "array",
                        "items": {
                            "enum": ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"]
                        },
                    },
                    targetReplicatedJobs={"type": "array", "items": NAME},
                ),
            },
        ),
    ),
)


def load(path: pathlib.Path) -> dict:
    return yaml.safe_load(path.read_text())


def job_of(manifest: dict) -> dict:
    """The only job of a JobSet, as Kubernetes would see it."""
    (replicated,) = manifest["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    name = f"{manifest['metadata']['name']}-{replicated['name']}-0"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        **replicated["template"],
    }


def container_of(manifest: dict) -> dict:
    (container,) = job_of(manifest)["spec"]["template"]["spec"]["containers"]
    return container


def parse(command: list[str]) -> tuple[dict, str, bool]:
    """Config, workdir and `--distributed` of a command, by train.py's own flags."""
    assert command[1] == "train.py"
    program = (
        "import json, ipg_jax.cli.train as train; from absl import app; "
        "app.run(lambda _: print(json.dumps("
        "[json.loads(train.CONFIG.value.to_json()), train.WORKDIR.value, train.DISTRIBUTED.value,"
        " train.STOPPED_CODE.value])))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *command[2:]], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    config, workdir, distributed, stopped = json.loads(result.stdout)
    assert stopped == STOPPED
    return config, workdir, distributed


def check_bucket(config: dict, workdir: str) -> None:
    assert workdir.startswith("gs://BUCKET/")
    for field in ("train_images", "train_annotations", "eval_images", "eval_annotations"):
        assert config["data"][field].startswith("gs://BUCKET/coco/")


def stand_in(folder: pathlib.Path, name: str, body: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_every_file_says_that_it_has_not_been_run(path: pathlib.Path):
    assert re.search(r"^# Not run on .*Checked", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(path: pathlib.Path):
    subprocess.run(["bash", "-n", path], check=True)
    checker = pathlib.Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([checker, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_have_the_fields_of_their_kind(path: pathlib.Path):
    manifest = load(path)
    jsonschema.validate(manifest, JOBSET)
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(job_of(manifest), version, strict=True)

    broken = job_of(manifest)
    broken["spec"]["template"]["spec"]["containers"][0]["comand"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="comand"):
        kubernetes_validate.validate(broken, version, strict=True)
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(manifest | {"spec": {"failurePolicy": {"maxRestart": 1}}}, JOBSET)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_start_again_after_preemption(path: pathlib.Path):
    manifest = load(path)
    spec = job_of(manifest)["spec"]
    pod = spec["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    assert spec["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert pod["terminationGracePeriodSeconds"] >= 60

    disrupted, stopped = spec["podFailurePolicy"]["rules"]
    assert disrupted["action"] == stopped["action"] == "FailJob"
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert stopped["onExitCodes"]["values"] == [STOPPED]
    assert stopped["onExitCodes"]["containerName"] == container_of(manifest)["name"]
    (rule,) = manifest["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_the_tpu_manifest_fits_its_slice():
    manifest = load(LAUNCH / "gke_tpu.yaml")
    container, job = container_of(manifest), job_of(manifest)["spec"]
    topology = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    resources = container["resources"]
    assert resources["limits"]["google.com/tpu"] == resources["requests"]["google.com/tpu"]
    assert int(resources["limits"]["google.com/tpu"]) * job["parallelism"] == chips
    config, workdir, distributed = parse(container["command"])
    check_bucket(config, workdir)
    assert distributed
    assert config["batch_size"] % chips == 0


def test_the_gpu_manifest_names_its_processes():
    manifest = load(LAUNCH / "gke_gpu.yaml")
    container, job = container_of(manifest), job_of(manifest)
    environment = {entry["name"]: entry for entry in container["env"]}
    address, port = environment["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
    assert manifest["spec"]["network"]["enableDNSHostnames"]
    assert address == f"{job['metadata']['name']}-0.{manifest['metadata']['name']}"
    assert container["ports"] == [{"containerPort": int(port)}]
    assert int(environment["JAX_NUM_PROCESSES"]["value"]) == job["spec"]["parallelism"]
    index = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    resources = container["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"]
    gpus = int(resources["limits"]["nvidia.com/gpu"]) * job["spec"]["parallelism"]
    config, workdir, distributed = parse(container["command"])
    check_bucket(config, workdir)
    assert not distributed  # the variables name the processes
    assert config["batch_size"] % gpus == 0


def run_slurm(folder: pathlib.Path, code: int) -> tuple[int, list[str], list[str]]:
    """Runs slurm.sh with an srun of this exit code: its own code, srun's words and scontrol's."""
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "venv" / "bin" / "activate").touch()
    # SIGTERM to the shell, as when SLURM pre-empts the job, must not end it.
    stand_in(folder / "bin", "srun", f'printf "%s\\n" "$@" >"$LOG"; kill -TERM $PPID; exit {code}')
    stand_in(folder / "bin", "scontrol", 'echo "$@" >"$LOG.scontrol"')
    log = folder / "log"
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "LOG": str(log),
        "SHARED": str(folder),
        "VENV": str(folder / "venv"),
        "SLURM_JOB_ID": "17",
    }
    result = subprocess.run(
        [LAUNCH / "slurm.sh", "--config.batch_size=48"], cwd=ROOT, env=os.environ | environment
    )
    scontrol = folder / "log.scontrol"
    said = scontrol.read_text().splitlines() if scontrol.exists() else []
    return result.returncode, log.read_text().splitlines(), said


def test_the_slurm_script_queues_a_stopped_run_again(tmp_path):
    code, command, said = run_slurm(tmp_path, STOPPED)
    assert (code, said) == (STOPPED, ["requeue 17"])
    config, workdir, distributed = parse(command[command.index("python") :])
    assert config["batch_size"] == 48
    assert workdir.startswith(str(tmp_path))
    assert distributed


@pytest.mark.parametrize("code", [0, 1])
def test_the_slurm_script_ends_with_its_run(code: int, tmp_path):
    assert run_slurm(tmp_path, code)[::2] == (code, [])


def test_the_slurm_script_asks_for_a_task_for_each_gpu():
    options = dict(
        re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", (LAUNCH / "slurm.sh").read_text(), re.M)
    )
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert not {"gpus-per-task", "gpu-bind"} & options.keys()
    assert "requeue" in options
    assert options["signal"] == "TERM@120"  # B:TERM would reach the shell alone
    assert 32 % (int(options["nodes"]) * int(options["ntasks-per-node"])) == 0


GCLOUD = """
echo "$*" >>"$LOG"
command=${!#}
case "$*" in
  *"resources create"*) echo ACTIVE >state ;;
  *"resources describe"*) cat state ;;
  *"resources delete"*) rm state ;;
  *"pip install"*) ;;
  *" ssh "*) cd host && bash -c "${command#--command=}" ;;
esac
"""

# The first run is stopped as its slice is taken away; the second ends.
PYTHON = """
printf "%s\\n" python "$@" >"$LOG.python"
if [[ -e ../stopped ]]; then exit 0; fi
touch ../stopped
echo SUSPENDED >../../state
exit 75
"""


def test_the_tpu_vm_script_goes_on_with_a_new_slice(tmp_path):
    (tmp_path / "host" / "ipg_jax").mkdir(parents=True)
    stand_in(tmp_path / "host" / "venv" / "bin", "python", PYTHON)
    stand_in(tmp_path / "bin", "gcloud", GCLOUD)
    stand_in(tmp_path / "bin", "git", ":")
    log = tmp_path / "log"
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "LOG": str(log),
        "POLL": "0.05",
    }
    size = "--config.image_size=(512, 512)"
    result = subprocess.run(
        [LAUNCH / "tpu_vm.sh", "watch", size],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    steps = re.findall(
        r"resources (create|delete)|tpu-vm (scp)|(uv) venv|(train)\.py", log.read_text()
    )
    once = ["create", "scp", "uv", "train"]
    assert ["".join(step) for step in steps] == [*once, "delete", *once]
    assert "--node-id=ipg --accelerator-type=v5litepod-16" in log.read_text()
    assert "--spot" in log.read_text()
    command = (tmp_path / "log.python").read_text().splitlines()
    config, workdir, distributed = parse(command)
    check_bucket(config, workdir)
    assert config["image_size"] == [512, 512]
    assert distributed
    assert config["batch_size"] % 16 == 0


def test_xla_knows_the_flags():
    used = {
        flag
        for path in LAUNCH.iterdir()
        for flag in re.findall(r"--xla_\w+=[\w.]+", path.read_text())
    }
    assert used
    # Flags of GPUs are known to every XLA; one that is unknown ends the process.
    environment = os.environ | {"XLA_FLAGS": " ".join(sorted(used))}
    program = "import jax; jax.devices()"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
