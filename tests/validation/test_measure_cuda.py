"""What is measured on a GPU, without one: fake tensors run every check of shapes and formats, a fake clock the rest."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from commlens.hardware import load_device  # noqa: E402
from commlens.hardware.errors import InputError  # noqa: E402
from commlens.models.estimators import ESTIMATORS, KernelProfile, base  # noqa: E402
from commlens.models.library import load_model  # noqa: E402
from commlens.validation.measure import acceptance, compute, environment, kernels, probe, shapes, worker  # noqa: E402
from commlens.validation.measure.collective_profile import device_of  # noqa: E402
from commlens.validation.measure.compute import DTYPES, Options, calibrate_compute  # noqa: E402
from commlens.validation.measure.compute_profile import columns  # noqa: E402
from commlens.validation.measure.kernels import Broken, Maker, Unsupported, torch_dtype  # noqa: E402
from commlens.validation.measure.layer import LayerShape, build  # noqa: E402
from commlens.validation.measure.session import Row, Session  # noqa: E402
from commlens.validation.measure.shapes import MOST_PINNED, Case, Limits, design  # noqa: E402
from commlens.validation.measure.timing import LEAST, CudaTimer, Timing, calls_of, waits  # noqa: E402

MODELS = ("llama-3.1-8b", "gpt-oss-20b", "deepseek-v3", "palm-540b", "t-nlg")
TOOLS = {"attention_prefill": ("flash", "cudnn"), "attention_decode": ("flash", "cudnn")}
H200 = {"name": "NVIDIA H200", "multi_processor_count": 132, "total_memory": 150e9}
NO_MEMORY = "CUDA out of memory. Tried to allocate 7.25 GiB.\nGPU 0 has a total capacity of 8 GiB"
LOST = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


class Gpu:
    """Stands for `torch.cuda`: a clock that launches move on, and graphs that are played from it."""

    def __init__(self):
        self.now, self.took, self.streams, self.captures, self.emptied = 0.0, 21e-6, ["main"], 0, 0
        self.part = SimpleNamespace(**H200, major=9, minor=0, uuid="12", L2_cache_size=5e7)
        self.capturing, self.broken, self.strict, self.fails = None, False, False, False

    def launch(self, times=1):
        if self.capturing:
            self.capturing.launches += times
        else:
            self.now += times * self.took

    def synchronize(self, *_):
        if self.broken:
            raise RuntimeError(LOST)

    def empty_cache(self):
        self.emptied += 1

    def set_sync_debug_mode(self, mode):
        self.strict = mode == "error"

    def event(self, enable_timing):
        assert enable_timing
        gpu, seen = self, {}

        class Event:
            def record(self):
                seen["at"] = gpu.now

            def synchronize(self):
                gpu.synchronize()

            def elapsed_time(self, later):
                return 1e3 * (later.at - seen["at"])

            at = property(lambda self: seen["at"])

        return Event()

    def new_graph(self):
        made = SimpleNamespace(launches=0)
        made.replay = lambda: self.launch(made.launches)
        return made

    @contextmanager
    def graph(self, graph, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.streams.append("capture")
        self.capturing, self.captures = graph, self.captures + 1
        yield
        self.capturing = None
        if self.fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.streams.pop()


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is not there; tensors on it are fake."""
    made = Gpu()
    for name, value in {
        "is_available": lambda: True,
        "get_device_properties": lambda *_: made.part,
        "mem_get_info": lambda *_: (1.4e11, 1.5e11),
        "synchronize": made.synchronize,
        "empty_cache": made.empty_cache,
        "set_sync_debug_mode": made.set_sync_debug_mode,
        "Event": made.event,
        "CUDAGraph": made.new_graph,
        "graph": made.graph,
        "current_stream": lambda: made.streams[-1],
        "set_stream": made.streams.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    monkeypatch.setattr(environment, "_driver", lambda uuid: "1.0")
    monkeypatch.setattr(Maker, "__init__", without_generator)
    monkeypatch.setattr(probe, "_agree", lambda one, other: True)  # fake tensors hold nothing to compare
    # What a build of torch without CUDA answers in Python, before fake tensors are asked.
    aten = torch.ops.aten
    monkeypatch.setattr(FakeTensorMode, "avoid_device_init", True)
    monkeypatch.setattr(FakeTensor, "copy_", lambda a, b, non_blocking=False: aten.copy_(a, b), raising=False)
    monkeypatch.setattr(FakeTensor, "__getitem__", lambda a, i: aten.index(a, [i]), raising=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield made


def attend(q, k, v, is_causal=False, enable_gqa=False):
    """What fused attention states of its operands (flash and cuDNN)."""
    assert q.dtype in (torch.bfloat16, torch.float16)
    assert q.shape[-1] % 8 == 0
    assert q.shape[-1] <= 256
    assert k.shape == v.shape
    assert q.shape[1] % k.shape[1] == 0
    assert enable_gqa == (q.shape[1] != k.shape[1])
    assert not is_causal or q.shape[2] == k.shape[2]  # else the mask begins at the wrong key
    return torch.empty_like(q)


def without_generator(self, device, cache, memory, seed=0):
    self.device, self.cache, self.memory, self.random = device, cache, memory, None


def limits_of(name, free=1.4e11, tools=("grouped_mm",)):
    device = load_device(name)
    most = min(0.2 * free, 8e9)
    return Limits(0.1, most, device.peak_flops, device.memory_bandwidth, tools={**TOOLS, "grouped_gemm": tools})


# -- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("llama-3.1-8b", "h200-sxm"),
        ("gpt-oss-20b", "a100-80-sxm"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("deepseek-v3", "mi300x"), ("palm-540b", "h200-sxm"), ("t-nlg", "h200-sxm"))
        ),
    ],
)
def test_every_kernel_of_a_design_passes_the_checks_of_torch(gpu, model, part):
    cases = design([load_model(model)], DTYPES["cuda"], limits_of(part), False, "quick")
    assert {case.kind for case in cases} == set(shapes.COUNTS)
    assert ("fp8" in {case.dtype for case in cases}) == (part != "a100-80-sxm")
    make = Maker("cuda", 0.0, 8e9)
    for case in cases:
        make(case)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtypes", [DTYPES["cuda"], ("fp8",), ("fp16", "int8"), ("fp32",)])
def test_a_design_keeps_to_what_libraries_state(model, dtypes):
    """What fake tensors do not check: rows of int8 products, formats, and what copies pin."""
    for case in design([load_model(model)], dtypes, limits_of("h200-sxm"), False):
        shape = case.shape
        if case.kind == "gemm" and case.dtype in ("int8", "fp8"):
            assert shape["m"] > 16
            assert shape["m"] % 16 == shape["n"] % 16 == shape["k"] % 16 == 0
        elif case.kind.startswith("attention"):
            assert case.dtype == next((dtype for dtype in dtypes if dtype in shapes.WIDE), "bf16")
        elif case.operation in ("to_device", "to_host"):
            assert shape["size"] <= MOST_PINNED


def test_a_small_memory_is_not_asked_for_more_than_it_has():
    for case in design([load_model("llama-2-70b")], ("fp16",), limits_of("v100-sxm", 4e9), False):
        if case.kind == "attention_prefill":
            shape = case.shape
            token = 2 * 2 * shape["batch"] * shape["head_dim"] * (shape["heads"] + shape["kv_heads"])
            assert token * shape["seq_q"] <= 0.2 * 4e9 or shape["seq_q"] == 16


@pytest.mark.parametrize("kind", ["attention_prefill", "attention_decode"])
def test_heads_that_share_keys_are_repeated_where_a_backend_knows_none(kind):
    shape = {"batch": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "seq_kv": 32, "seq_q": 32}
    results = [Maker("cpu", 0.0, 1e8)(Case(kind, shape, "fp32", tool="math"))(0)]
    made = Maker("cpu", 0.0, 1e8)

    @contextmanager
    def anything(tool):
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "pinned", anything)
        results.append(made(Case(kind, shape, "fp32", tool="efficient"))(0))
    assert torch.allclose(*results, atol=1e-5)


def test_the_narrow_format_of_mi300_is_its_own(monkeypatch):
    assert torch_dtype("fp8") == torch.float8_e4m3fn
    monkeypatch.setattr(torch.version, "hip", "6.4")
    for part, expected in (("gfx942:sramecc+", torch.float8_e4m3fnuz), ("gfx950", torch.float8_e4m3fn)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, p=part: SimpleNamespace(gcnArchName=p))
        assert torch_dtype("fp8") == expected


# -- libraries ----------------------------------------------------------------------------------


def test_libraries_that_do_not_run_wait_or_are_wrong_take_no_turn(gpu, monkeypatch):
    models = [load_model("llama-3.1-8b")]
    assert probe.gpu_tools(models, "bf16") == {
        "attention_prefill": ["flash", "cudnn"],
        "attention_decode": ["flash", "cudnn"],
        "grouped_gemm": ["grouped_mm"],
    }
    assert probe.gpu_tools(models, "fp16")["grouped_gemm"] == ["loop"]  # torch has it in bf16 alone
    whole = Maker._launched

    def older(self, case):
        return "No available kernel. Aborting execution." if case.tool in ("flash", "cudnn") else whole(self, case)

    monkeypatch.setattr(Maker, "_launched", older)
    assert probe.gpu_tools(models, "bf16")["attention_prefill"] == ["efficient"]
    monkeypatch.setattr(probe, "waits", lambda run: True)
    assert probe.gpu_tools(models, "bf16")["grouped_gemm"] == ["loop"]
    assert probe.gpu_tools(models, None) == {}


def test_results_of_a_library_are_compared(monkeypatch):
    shape = {"batch": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "seq_q": 32, "seq_kv": 32}
    case = Case("attention_prefill", shape, "fp32")
    assert probe._right(case, "flash", 0, "cpu")
    assert not probe._right(case, "cudnn", 0, "cpu")  # not here
    whole = Maker.__call__
    monkeypatch.setattr(
        Maker,
        "__call__",
        lambda self, case: (lambda run: lambda i: run(i) * (1.2 if case.tool == "flash" else 1))(whole(self, case)),
    )
    assert not probe._right(case, "flash", 0, "cpu")


# -- times --------------------------------------------------------------------------------------


def test_a_kernel_is_timed_from_a_graph_and_no_gap_of_the_host_is_in_it(gpu):
    assert calls_of(gpu.took) == 10
    found = CudaTimer(0.01)(lambda i: gpu.launch())
    assert found.seconds == pytest.approx(gpu.took)
    assert found.repetitions == 47
    assert gpu.captures == 1
    assert CudaTimer(1e-9)(lambda i: gpu.launch()).repetitions == LEAST


def test_what_waits_for_the_gpu_is_not_captured(gpu):
    def run(_):
        if gpu.strict:
            raise RuntimeError("called a synchronizing CUDA operation")
        gpu.launch()

    assert waits(run)
    assert not gpu.strict
    assert CudaTimer(0.01)(run).seconds == pytest.approx(gpu.took)
    assert gpu.captures == 0

    def fail(_):
        raise RuntimeError(NO_MEMORY)

    with pytest.raises(RuntimeError, match="out of memory"):
        waits(fail)
    assert not gpu.strict


def test_a_capture_that_fails_leaves_the_stream_as_it_was(gpu):
    gpu.fails = True
    CudaTimer(0.01)(lambda i: gpu.launch())
    assert gpu.streams[-1] == "main"


# -- sessions -----------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch, gpu):
    """Few kernels, each of its own time."""
    monkeypatch.setattr(shapes, "COUNTS", {kind: (12, 12, 12) for kind in shapes.COUNTS})
    monkeypatch.setattr(kernels, "MOST_COPIES", 1)
    monkeypatch.setattr(base, "MOST_STEPS", 2)  # how well a fit does is not asked here
    whole, device = Maker.__call__, load_device("h200-sxm")
    started = {kind: form(device) for kind, form in ESTIMATORS.items()}
    for one in started.values():
        one.values_, one.tools_ = {name: number.start for name, number in one.parameters.items()}, {}

    def timed(self, case):
        run = whole(self, case)
        took = float(started[case.kind].predict(columns([Row(case, Timing(1.0, 1.0, 1.0, 1.0, 5))])[0])[0])

        def launch(i):
            gpu.took = took
            gpu.launch()
            return run(i)

        return launch

    monkeypatch.setattr(Maker, "__call__", timed)
    monkeypatch.setattr(compute, "REPEAT_SECONDS", {"quick": 1e-6})
    return gpu


def options(tmp_path, **more):
    return Options(**{"device": "cuda", "level": "quick", "out": tmp_path / "my.json"} | more)


def test_the_command_writes_a_profile_of_a_gpu_and_goes_on(small, tmp_path):
    import typer

    from commlens.measuring import compute as command

    app, out = typer.Typer(), tmp_path / "my.json"
    app.command()(command)
    before = torch.get_float32_matmul_precision()
    found = CliRunner().invoke(app, ["--device", "cuda", "--quick", "--dtypes", "bf16,fp8", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert torch.get_float32_matmul_precision() == before
    profile, data = KernelProfile.load(out), json.loads(out.read_text())
    assert profile.device == load_device("h200-sxm")
    assert set(profile.estimators) == set(shapes.COUNTS)
    assert data["environment"]["probe"]["tools"]["grouped_gemm"] == ["grouped_mm"]
    assert data["notes"] == []
    small.part.total_memory, rows = 1e9, data["measurements"]  # what is free now changes no shape
    again = CliRunner().invoke(
        app, ["--device", "cuda", "--quick", "--dtypes", "bf16,fp8", "--out", str(out), "--resume"]
    )
    assert again.exit_code == 0, again.output
    assert json.loads(out.read_text())["measurements"] == rows


def test_memory_that_does_not_suffice_is_a_row_and_the_session_goes_on(small, tmp_path, monkeypatch):
    whole = Maker._tensor

    def short(self, *shape, dtype="fp32"):
        if len(shape) == 1:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return whole(self, *shape, dtype=dtype)

    monkeypatch.setattr(Maker, "_tensor", short)
    found, session = calibrate_compute(options(tmp_path, dtypes=("bf16",)))
    assert {row.case.kind for row in session.rows if row.timing is None} == {"copy"}
    assert [note for note in found.notes if "copy" in note] == ["not supported here: copy fp32 torch: out of memory"]
    assert "gemm" in found.profile.estimators
    assert small.emptied >= 12


def test_a_gpu_that_is_lost_ends_the_session_and_keeps_what_is_there(small, tmp_path, monkeypatch):
    whole = Maker._launched

    def lost(self, case):
        if case.kind == "streaming" and case.operation == "norm":
            small.broken = True
            return LOST.splitlines()[0]
        return whole(self, case)

    monkeypatch.setattr(Maker, "_launched", lost)
    with pytest.raises(InputError, match=r"illegal memory access.*results are kept in .*my.jsonl: too few") as problem:
        calibrate_compute(options(tmp_path, dtypes=("bf16",)))
    assert "\n" not in str(problem.value)
    small.broken = False
    rows = Session.resume(tmp_path / "my.jsonl", environment.environment("cuda", 0)).rows
    assert [row.timing is None for row in rows] == [False] * (len(rows) - 1) + [True]
    monkeypatch.setattr(Maker, "_launched", whole)
    found, session = calibrate_compute(options(tmp_path, dtypes=("bf16",), resume=True))
    assert session.rows[: len(rows)] == rows  # the one that broke it is not tried again
    assert len(session.rows) > len(rows)
    assert set(found.profile.estimators) == set(shapes.COUNTS)


def test_a_broken_gpu_is_told_from_a_kernel_that_does_not_run(gpu):
    make = Maker("cuda", 0.0, 1e9)
    case = Case("gemm", {"m": 32, "n": 24, "k": 24}, "fp8")
    with pytest.raises(Unsupported, match="divisible by 16"):
        make(case)
    gpu.broken = True
    with pytest.raises(Broken):
        make(case)


def test_a_gpu_that_torch_does_not_run_on_is_one_line(gpu, tmp_path, monkeypatch):
    def missing(*_):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(compute, "launch_seconds", missing)
    with pytest.raises(
        InputError, match=r"--device: cuda: .*no kernel image.* .legal: a GPU that this torch"
    ) as problem:
        calibrate_compute(options(tmp_path))
    assert "\n" not in str(problem.value)


def test_formats_that_a_gpu_does_not_have_are_one_line(gpu, tmp_path):
    gpu.part = SimpleNamespace(**H200 | {"name": "NVIDIA A100-SXM4-80GB", "multi_processor_count": 108})
    with pytest.raises(InputError, match=r"--dtypes: 'fp8', which a100-80-sxm does not have .legal: bf16, fp16, fp32"):
        calibrate_compute(options(tmp_path, dtypes=("bf16", "fp8")))


# -- predicted and measured ---------------------------------------------------------------------


def test_a_layer_of_a_gpu_is_predicted_from_a_profile_and_then_run(small, tmp_path, capsys, monkeypatch):
    built = []

    def build(shape, device, tool):
        built.append((shape.dtype, device, tool))
        return lambda i: small.launch()

    monkeypatch.setattr(acceptance, "build", build)
    small.part.multi_processor_count, out = 132, tmp_path / "my.json"
    calibrate_compute(options(tmp_path, dtypes=("bf16",)))
    small.took = 0.02
    code = acceptance.main(["--device", "cuda", "--profile", str(out), "--seconds", "0.01"])
    said = capsys.readouterr().out
    # Of two libraries with as many rows the first has no factor, and predictions are of it.
    assert built == [("bf16", "cuda", "cudnn")]
    assert said.index("predicted, and not yet run: layer") < said.index("layer: predicted")
    assert "measured 0.02 s" in said
    assert code == int("missed" in said)


def test_a_layer_runs_in_a_format_of_matrix_units():
    shape = LayerShape(64, 4, 128, 2, 16, "bf16")
    out = build(shape)(0)
    assert (out.dtype, out.shape) == (torch.bfloat16, (2, 16, 64))
    assert shape.message == 2 * 2 * 16 * 64


# -- which GPU ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "units", "preset"),
    [
        ("NVIDIA H200", 132, "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", 132, "h100-sxm"),
        ("NVIDIA H100 PCIe", 114, "h100-pcie"),
        ("NVIDIA H100 NVL", 132, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 16, None),
        ("NVIDIA GH200 480GB", 132, None),
        ("NVIDIA GH200 144G HBM3e", 132, "gh200"),
        ("NVIDIA GB200", 152, "gb200"),
        ("NVIDIA A100-SXM4-80GB", 108, "a100-80-sxm"),
        ("NVIDIA A100 80GB PCIe", 108, "a100-80-pcie"),
        ("Tesla V100-SXM2-32GB", 80, "v100-sxm"),
        ("NVIDIA GeForce RTX 4090", 128, None),
        ("AMD Instinct MI300X", 304, "mi300x"),
    ],
)
def test_a_name_and_its_units_lead_to_a_preset_or_to_none(gpu, name, units, preset):
    gpu.part = SimpleNamespace(name=name, multi_processor_count=units)
    found = environment.cuda_device()
    assert (found and found.name) == preset
    assert environment.cuda_device("a10").name == "a10"


def test_a_gpu_without_a_preset_has_a_datasheet_of_its_driver_and_of_products(small, tmp_path):
    small.part = SimpleNamespace(
        name="NVIDIA GeForce RTX 4090", multi_processor_count=128, total_memory=24 * 2**30, L2_cache_size=72 * 2**20,
        clock_rate=2520000, memory_clock_rate=10501000, memory_bus_width=384, uuid="1",
    )  # fmt: skip
    found, _ = calibrate_compute(options(tmp_path, dtypes=("bf16", "fp8")))
    device = found.profile.device
    assert device.name == "nvidia-geforce-rtx-4090"
    assert device.clock == pytest.approx(2.52e9)
    assert device.memory_bandwidth >= 1008e9
    assert set(device.peak_flops) == {"bf16", "fp8"}
    assert KernelProfile.load(tmp_path / "my.json").device == device
    small.part.name = "another"
    with pytest.raises(InputError, match=r"--resume: .*, here"):
        calibrate_compute(options(tmp_path, resume=True))


def test_a_profile_keeps_the_preset_and_a_resumed_session_asks_for_the_same(small, tmp_path):
    small.part.name = "NVIDIA GeForce RTX 4090"
    found, _ = calibrate_compute(options(tmp_path, dtypes=("bf16",), preset="h200-sxm"))
    assert found.profile.device.name == "h200-sxm"
    with pytest.raises(InputError, match=r"my.jsonl was measured with a --preset .legal: the same again"):
        calibrate_compute(options(tmp_path, dtypes=("bf16",), resume=True))


# -- collectives --------------------------------------------------------------------------------


@pytest.fixture
def ranks(gpu, monkeypatch):
    """Rank 0 of four over nccl: tensors on the host, a process group that moves nothing, every launch on the clock."""
    dist = torch.distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    begin, seen = dist.init_process_group, SimpleNamespace(more={}, launched=[])

    def join(backend, store=None, **more):
        assert backend == "nccl"
        seen.more = more
        begin("fake", store=FakeStore(), rank=0, world_size=4)

    monkeypatch.setattr(dist, "init_process_group", join)
    monkeypatch.setattr(worker, "_gpu", lambda rank: torch.device("cpu"))
    whole = worker.make

    def make(kind, elements, *more):
        run = whole(kind, elements, *more)

        def launch():
            seen.launched.append(kind)
            gpu.took = 1e-5 + 4e-11 * elements
            gpu.launch()
            return run()

        return launch

    monkeypatch.setattr(worker, "make", make)
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():  # no fake tensors: what ranks agree on is read
        yield seen


def plan_of(tmp_path, **more):
    given = {"backend": "nccl", "sizes": [4096.0, 2.0**24], "store": "", "threads": 1, "budget": 1e-3, "timeout": 9.0}
    return worker.Plan(**{**given, "out": str(tmp_path / "c.jsonl"), **more})


def test_ranks_of_gpus_time_launches_by_events_from_a_graph(gpu, ranks, tmp_path):
    worker.work(plan_of(tmp_path), 0, 4)
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == [kind for kind in worker.KINDS for _ in range(2)]
    for row in rows:
        assert row["seconds"] == pytest.approx(1e-5 + 1e-11 * row["size"])
        assert row["ranks"] == 4
    assert gpu.captures == len(rows)
    assert ranks.more["device_id"] == torch.device("cpu")


def test_ranks_that_cannot_all_capture_launch_one_by_one(gpu, ranks, tmp_path):
    gpu.fails = True
    worker.work(plan_of(tmp_path, kinds=("all_reduce",)), 0, 4)
    first, second = (json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines())
    assert first["seconds"] == pytest.approx(1e-5 + 1e-11 * first["size"])
    assert second["repetitions"] >= worker.FEWEST


def test_memory_that_one_rank_lacks_ends_a_kind_on_all(gpu, ranks, tmp_path, monkeypatch):
    whole = worker.make

    def make(kind, elements, *more):
        if kind == "all_gather" and elements > 2000:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return whole(kind, elements, *more)

    monkeypatch.setattr(worker, "make", make)
    worker.work(plan_of(tmp_path, kinds=("all_gather", "broadcast")), 0, 4)
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert [(row["kind"], row.get("unsupported")) for row in rows] == [
        ("all_gather", None), ("all_gather", "out of memory"), ("broadcast", None), ("broadcast", None),
    ]  # fmt: skip


def test_collectives_of_a_gpu_without_a_preset_have_a_datasheet(small):
    small.part.name = "NVIDIA GeForce RTX 4090"
    assert device_of("nccl").name == "nvidia-geforce-rtx-4090"
    small.part.name = "NVIDIA H200"
    assert device_of("nccl").name == "h200-sxm"
