"""The reader of compiled programs, on a stored text: no accelerator's compiler is needed."""

import importlib.util
import math
import pathlib
import subprocess
import sys

import jax
import pytest

from configs import digits_ipg, retinanet_ipg
from tools.xla_report.hlo import parse_program, shape_bytes
from tools.xla_report.report import collectives, program_report
from tools.xla_report.step import landscape_size, lower_step
from tools.xla_report.tables import format_report
from tools.xla_report.topologies import CHIPS, GIB, TopologyError, topology_devices

# What XLA:TPU prints, cut down: a forward convolution and its gradient, an all-reduce, a
# reduce-scatter, a loop of three that gathers rows while an all-gather from outside goes on beside
# it, and a sort.
HLO = pathlib.Path(__file__).with_name("compiled_program.txt").read_text()


@pytest.fixture(scope="module")
def program():
    return parse_program(HLO)


def test_cycles_of_the_entry_and_of_loops(program):
    report = program_report(program)
    assert report["estimated_cycles"] == 6000 + 9000 + 1000
    assert report["loop_cycles"] == 3 * 50
    assert report["unknown_loops"] == 0


def test_loops_whose_length_depends_on_the_data_count_once():
    text = HLO.replace("ROOT %lt =", "%lt =").replace(
        "direction=LT\n}", "direction=LT\n  ROOT %both = pred[] compare(%lt, %lt), direction=NE\n}"
    )
    report = program_report(parse_program(text))
    assert (report["loop_cycles"], report["unknown_loops"]) == (50, 1)


def test_loops_whose_length_the_compiler_names():
    text = HLO.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"},"init":"0"}'
    )
    assert program_report(parse_program(text))["loop_cycles"] == 350


def test_kernels_without_an_estimate(program):
    # Three gathers in the loop and a sort; the allocation of a buffer is no kernel, and
    # collectives have a table of their own.
    assert program_report(program)["without_estimate"] == {"gather": 3, "sort": 1}


def test_collectives(program):
    assert collectives(program) == {
        # Both tensors of the one instruction: bfloat16 8 x 128 and float32 64 x 256.
        "all-reduce": {"count": 1, "bytes": 2 * 8 * 128 + 4 * 64 * 256},
        # The whole sum, of which the fusion keeps a slice.
        "reduce-scatter": {"count": 1, "bytes": 4 * 64 * 256},
        # Begun outside the loop, continued inside: one, of the gathered size.
        "all-gather": {"count": 1, "bytes": 2 * 64 * 128},
    }


def test_costliest_instructions(program):
    first, second = program_report(program, top=2)["costliest"]
    assert first == {
        "cycles": 9000,
        "times": 1,
        "kind": "convolution",  # two fusions down
        "name": "fusion.2",
        "operation": "step/RetinaNet/backbone/layer1/block0/conv1/conv_general_dilated",
        "source": "models/resnet.py:42",  # the innermost frame of this package
    }
    assert second["name"] == "fusion.1"


def test_cycles_by_kind_part_and_source(program):
    report = program_report(program)
    assert report["kinds"] == {
        "convolution": {"forward": 6000, "backward": 9000},
        "copy": {"forward": 1000, "backward": 0},
        "fusion": {"forward": 150, "backward": 0},
    }
    assert report["parts"] == {
        "RetinaNet/backbone/layer1": {"forward": 6000, "backward": 9000},
        "": {"forward": 1000, "backward": 0},
        "RetinaNet/head/while": {"forward": 150, "backward": 0},
    }
    assert report["sources"] == {
        "models/resnet.py:42": {"forward": 6150, "backward": 9000},
        "train.py:7": {"forward": 1000, "backward": 0},
    }


def test_source_without_a_frame_of_the_package(program):
    assert program.source(1) == "train.py:7"
    assert program.source(0) == ""


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 2 * 8 * 128),
        ("(f32[4]{0}, /*index=1*/pred[3]{0}, u32[]{:S(2)})", 16 + 3 + 4),
        ("f8e4m3fn[7]{0}", 7),
        ("s4[5]{0}", 3),
        ("token[]", 0),
    ],
)
def test_shape_bytes(shape, size):
    assert shape_bytes(shape) == size


def test_table_is_complete(program):
    chip = CHIPS["v5e"]
    report = {
        "fits": True,
        "compile_seconds": 61.2,
        "flops": 4.6e12,
        "bytes_accessed": 58.5e9,
        "estimated_seconds": 0.0695,
        "share_of_peak": 0.336,
        "memory": {
            "peak": 4 * GIB,
            "available": chip.hbm,
            "arguments": GIB,
            "temporaries": 3 * GIB,
            "code": 0,
            "images_that_fit": 40,
        },
        **program_report(program),
    }
    text = format_report(report, chip)
    for figure in ("4.600 TFLOP", "58.50 GB", "4.00 of 16.0 GiB", "about 40", "69.5 ms", "34%"):
        assert figure in text
    for figure in ("3 gather, 1 sort", "0 loops of", "all-reduce", "models/resnet.py:42", "56.2%"):
        assert figure in text
    assert math.isclose(9000 / 16000, 0.562, abs_tol=1e-3)  # the share above


def test_out_of_memory_is_reported():
    report = {"fits": False, "compile_seconds": 3.0, "error": "Used 20.1G of 15.7G hbm"}
    text = format_report(report, CHIPS["v5e"])
    assert "does not fit" in text
    assert "20.1G of 15.7G" in text


def test_no_program_in_the_text():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse_program("nothing")


@pytest.mark.parametrize("name", ["v5e", "v5e:2xa", "v9:2x2", "h100:0"])
def test_unknown_topologies(name):
    with pytest.raises(TopologyError, match="KIND:SHAPE"):
        topology_devices(name)


def test_command_line_refuses_an_unknown_topology():
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-m", "tools.xla_report", "--config=configs/digits_ipg.py"]
    run = subprocess.run(
        [*command, "--topology=v9:2x2"], cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "--topology is KIND:SHAPE" in run.stderr


def test_missing_compilers_name_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match="tpu-report"):
        topology_devices("v5e:2x4")
    with pytest.raises(TopologyError, match="gpu-report"):
        topology_devices("h100:8")


def test_default_size_is_that_of_wide_images_padded_for_the_mesh():
    config = retinanet_ipg.get_config()  # 1333x800
    assert landscape_size(config) == (800, 1344)
    config.mesh.space = 2  # both halves are multiples of 32
    assert landscape_size(config) == (832, 1344)


@pytest.mark.parametrize("packed", [False, True])
def test_the_step_of_a_config_is_lowered_without_values(packed: bool):
    config = digits_ipg.get_config("stages=2")
    config.data.space_to_depth = packed
    lowered = lower_step(
        config, jax.devices(), mode="train", batch_per_device=3, image_size=(64, 96), max_boxes=5
    )
    (_, batch, _), _ = lowered.args_info
    assert config.batch_size == 3 * jax.device_count()
    images = [(64, 96, 3), (32, 48, 3)] if not packed else [(16, 24, 48), (8, 12, 48)]
    assert [x.shape[1:] for x in jax.tree.leaves(batch.pyramid)] == images
    assert batch.boxes.shape == (config.batch_size, 5, 4)
    assert f"mhlo.num_partitions = {jax.device_count()}" in lowered.as_text()


def test_prediction_is_lowered_with_folded_fusions():
    config = digits_ipg.get_config("stages=2")
    lowered = lower_step(
        config, jax.devices(), mode="predict", batch_per_device=1, image_size=(64, 64), fold=True
    )
    (variables, _), _ = lowered.args_info
    assert set(variables["params"]["backbone"]["fusion2"]) == {"w_f", "w_r"}
