"""The package: a lean runtime, and extras for export, training, benchmarks, serving and development."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
COMPILE_S = 7200
LEVELS_VARIABLE = "ENGINE_BUILD_LEVELS"
DISTRIBUTION = runpy.run_path(str(HERE / "engine" / "_distribution.py"))

RUNTIME = [
    "msgspec>=0.19,<1",
    "num2words>=0.5.13,<0.6",
    "numba>=0.62,<0.70",
    "numpy>=2.1,<2.5",
    "sentencepiece>=0.2,<0.3",
    "soundfile>=0.13,<0.15",
    "soxr>=0.5,<2",
    "text2num>=3.1,<4",
    "tqdm>=4.66,<5",
]
# Exactly one of the two: they hold the same package, so that each overwrites files of the other. The one for
# NVIDIA GPUs also runs on the CPU; it is 250 MB, the other 20.
CPU = ["onnxruntime>=1.30,<1.33"]
GPU = ["onnxruntime-gpu>=1.30,<1.33"]
MEDIA = ["av>=14,<19"]
MICROPHONE = ["sounddevice>=0.5,<0.6"]
TORCH = ["torch>=2.8,<2.14", "transformers>=5.0,<5.30", "safetensors>=0.5,<0.9"]
EXPORT = [*TORCH, "jiwer>=4,<5", "onnx>=1.19,<1.24", "sacrebleu>=2.5,<3"]
TRAIN = [
    *TORCH,
    "matplotlib>=3.9,<4",
    "peft>=0.15,<0.22",
    "pyyaml>=6,<7",
    "sacrebleu>=2.5,<3",
    "jiwer>=4,<5",
    "tensorboard>=2.18,<3",
    "zstandard>=0.23,<0.26",
]
# Not here, though they could do it: scipy (resampling of sums in blocks, 15 lines), jinja2 (one page),
# tabulate (a table, 10 lines), datasets (we read local Arrow files, and open no network).
BENCH = ["jiwer>=4,<5", "matplotlib>=3.9,<4", "sacrebleu>=2.5,<3"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10"]
SERVE = [
    "fastapi>=0.115.12,<1",
    "h11>=0.14,<1",
    "prometheus-client>=0.20,<1",
    "python-multipart>=0.0.28,<0.1",  # from here on it bounds the headers of parts
    "starlette>=0.46,<2",
    "uvicorn>=0.34,<1",
    "websockets>=13.1,<18",
]
WYOMING = ["wyoming>=1.10,<2"]
ZEROCONF = ["zeroconf>=0.130,<1"]  # wyoming's own extra wants one old version
# Not in [dev]: it drives a Chromium, which pip cannot install. Its tests are skipped without the two.
BROWSER = ["playwright>=1.50,<2"]
# Not in [dev]: 240 MB, and a local cluster takes longer to start than most test files take to run.
RAY = ["ray[data]>=2.51,<3"]
TEST = [
    "httpx>=0.27,<1",
    "hypothesis>=6.120,<7",
    "mypy>=1.15,<3",
    "openai[realtime]>=1.66,<4",  # the client that the service is for; its tests are skipped without it
    "pyarrow>=18,<28",  # engine-bench reads Hugging Face datasets with it where it is installed
    "pytest>=8.3,<10",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.12,<0.18",
    "setuptools>=77",  # the test of what installed packages tell a type checker builds them
    "types-PyYAML",
    "types-tqdm",
]

COMPILE = (
    "import sys, types; package = types.ModuleType('engine'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['engine'] = package; from pathlib import Path; from engine.kernels import precompile; "
    "from engine.kernels.vector import levels; names = sys.argv[3:]; "
    "names = list(levels.LEVELS) if names == ['all'] else names; "
    "names = [levels.active().name] if names == ['host'] else names; "
    "precompile.compile_ahead(Path(sys.argv[2]), [name for name in names if name != 'none'], 2)"
)


class BuildWithKernels(build_py):
    """Compiles kernels ahead, for this processor's level, or for those that ENGINE_BUILD_LEVELS names.

    ENGINE_BUILD_LEVELS: "avx2 avx512", "all", "host" or "none". `make wheel` takes all. Where compiling
    fails, the package is built without: it compiles at its first use.
    """

    def run(self) -> None:
        """Build, then compile from what was built."""
        super().run()
        names = os.environ.get(LEVELS_VARIABLE, "host").split()
        package = HERE / "engine" if self.editable_mode else Path(self.build_lib) / "engine"
        command = [sys.executable, "-P", "-c", COMPILE, str(package.resolve())]
        command += [str(package.resolve() / "kernels" / "compiled"), *names]
        try:
            failed = subprocess.run(command, check=False, timeout=COMPILE_S).returncode
        except subprocess.TimeoutExpired:
            failed = 1
        if failed:
            self.warn("kernels could not be compiled ahead; they will be compiled at the first use")
        if not self.editable_mode:  # engine-bench runs on them where no data is named
            shutil.copytree(
                HERE / "examples", package / "bundled" / "examples", dirs_exist_ok=True,
                ignore=lambda folder, names: {n for n in names if n.endswith((".py", ".yml", "__pycache__"))},
            )  # fmt: skip


class BinaryDistribution(Distribution):
    """Compiled kernels belong to one system and one version of Python."""

    def has_ext_modules(self) -> bool:
        """So that the wheel is named after both."""
        return True


setup(
    cmdclass={"build_py": BuildWithKernels},
    distclass=BinaryDistribution,
    name=DISTRIBUTION["NAME"],
    version=DISTRIBUTION["VERSION"],
    description="German speech in, German transcript and English translation out",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["engine*", "export*", "training*", "benchmarks*"]),
    # Stated, so that an editable install is one line in a .pth file, which type checkers follow.
    package_dir={"": "."},
    package_data={
        "engine": ["py.typed", "bundled/*/*", "kernels/signatures.json", "serve/page/files/*"],
        "training": ["configs/*.yaml", "lm/*.yaml", "synthesis/*.mjs"],
        "benchmarks": ["baselines/*.json", "data/*.tsv", "peers/speech/*.py"],
    },
    install_requires=RUNTIME,
    extras_require={
        "cpu": CPU,
        "gpu": GPU,
        "media": MEDIA,
        "microphone": MICROPHONE,
        "kenlm": ["kenlm>=0.2,<0.4"],  # compiles; only to compare with, the runtime reads its files itself
        "export": EXPORT,
        "train": TRAIN,
        "bench": BENCH,
        "serve": SERVE,
        "wyoming": WYOMING,
        "zeroconf": ZEROCONF,
        "browser": BROWSER,
        "ray": RAY,
        "docs": DOCS,
        "dev": [*EXPORT, *TRAIN, *BENCH, *SERVE, *WYOMING, *ZEROCONF, *MEDIA, *MICROPHONE, *DOCS, *TEST],
    },
    entry_points={
        "console_scripts": [
            "engine = engine.cli:main",
            "engine-bench = benchmarks.cli:main",
            # `export` alone would be the shell's own builtin.
            "engine-export = export.cli:main",
            "engine-train = training.cli:main",
        ]
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
