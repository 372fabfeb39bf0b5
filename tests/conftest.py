"""What every test runs under: eight virtual devices, strict promotion, shapes checked at run time.

The environment is set before JAX or TensorFlow is imported by anything.
"""

import importlib
import importlib.metadata
import os
import pathlib

# Tests run little and compile much: without LLVM's optimisations, with XLA's older and simpler
# generator of loops, and without splitting programs for threads that the other worker needs, they
# take less time. jaxlib 0.11 lacks one of these flags, and ends at unknown ones.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        *(
            ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
            if importlib.metadata.version("jaxlib").startswith("0.10.")
            else []
        ),
    ]
).strip()
# Compiled programs are shared by tests, workers and the processes that tests start.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Else TensorFlow imports Keras, scikit-learn and pandas, which take a third of its time.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import contextlib
import gc

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

TRAINING = (
    "benchmark",
    "build",
    "build_checks",
    "build_analysis",
    "build_compat",
    "build_data",
    "build_fields",
    "build_matchers",
    "build_predict",
    "build_report",
    "build_runs",
    "build_trained",
    "checkpoint",
    "checkpoint_files",
    "checkpoint_io",
    "command_line",
    "evaluate",
    "evaluator",
    "hosts",
    "metrics",
    "optimizer",
    "plain_config",
    "preemption",
    "prefetch",
    "same_run",
    "sharding",
    "steps",
    "trackers",
    "train",
    "workdir",
)

# `types` and `training.state` are left out: their dataclasses are pytrees, which also hold
# shardings, shape structs and whatever else a tree may be mapped to. So is `training.runs`, whose
# dataclasses hold stand-ins in tests.
install_import_hook(
    [
        "ipg_jax.analysis",
        "ipg_jax.ops",
        "ipg_jax.kernels",
        "ipg_jax.layers",
        "ipg_jax.models",
        "ipg_jax.tasks",
        "ipg_jax.data",
        "ipg_jax.evaluation",
        "ipg_jax.files",
        "ipg_jax.inference",
        "ipg_jax.lock",
        *(f"ipg_jax.training.{name}" for name in TRAINING),
        "ipg_jax.visualize",
        "ipg_jax.weights",
    ],
    "shape_checks.checked",
)

jax.config.update("jax_numpy_dtype_promotion", "strict")

# Tracing makes a great many objects, few of which are in cycles.
gc.set_threshold(200_000, 20, 20)

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("ci")


def pytest_configure(config):
    """Imports TensorFlow, where tests run, before a module of the package does.

    What is imported within such a module is looked for among the hook's own compiled files, and
    compiled anew: a third of the time that a worker takes to start.
    """
    if not config.getoption("numprocesses"):  # a worker, or a run without any
        importlib.import_module("tensorflow_datasets")


ON_CPUS = {"layers", "models", "parity", "tasks", "weights"}
"""Folders whose programs hold a CPU's forms of kernels alone, and take half as long to trace."""


@pytest.fixture(autouse=True)
def _forms_of_a_cpu(request):
    from ipg_jax import kernels  # after the import hook is installed

    known = request.path.parent.name in ON_CPUS
    with kernels.lowered_for("cpu") if known else contextlib.nullcontext():
        yield


def pytest_collection_finish():
    """Leaves out of all later collections what is imported by now, as pytest's own at the end."""
    gc.freeze()


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker is left alone with one at the end."""
    longest = ("test_steps.py", "test_train.py")
    items.sort(key=lambda item: (item.path.name not in longest, "training" not in item.path.parts))
