"""Packaging for pip and colcon; one file serves both, so the version and the file lists are said once."""

import re
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "endomatch_ros"
ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / NAME / "__init__.py").read_text(), re.MULTILINE).group(1)
README = ROOT / "README.md"

# ROS 2 Kilted as wheels (Linux x86_64, Python 3.10 to 3.14), for machines without a ROS installation.
ROS_WHEELS = [
    "ros-rclpy[fastrtps]~=9.1",
    "ros-ament-index-python~=1.11",
    "ros-diagnostic-msgs~=5.5",
    "ros-geometry-msgs~=5.5",
    "ros-lifecycle-msgs~=2.3",
    "ros-sensor-msgs~=5.5",
    "ros-std-msgs~=5.5",
    "ros-std-srvs~=5.5",
    "ros-visualization-msgs~=5.5",
]

setup(
    name=NAME,
    version=VERSION,
    description="A DINOv2 feature matcher for live endoscopes, as a library and a ROS 2 node",
    long_description=README.read_text() if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="endomatch_ros maintainers",
    maintainer="endomatch_ros maintainers",
    maintainer_email="maintainers@endomatch.example",
    keywords=["ROS 2", "endoscopy", "feature matching", "DINOv2"],
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: ["py.typed", "models/weights/*.safetensors", "gvsl/weights/*.safetensors", "gvsl/splits/*.json"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", "LICENSE"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.*"))),
        (f"share/{NAME}/config", sorted(glob("config/*.*"))),
        (f"share/{NAME}/config/profiles", sorted(glob("config/profiles/*"))),
        # pip ignores setup.cfg's script directory, so `ros2 run` finds this after `pip install`; colcon's entry point
        # takes its place.
        (f"lib/{NAME}", ["scripts/matcher_node", "scripts/endoscope_publisher", "scripts/train_matcher"]),
    ],
    zip_safe=False,
    install_requires=[
        "setuptools",
        "huggingface_hub>=0.23",  # timm brings it
        "matplotlib>=3.8",
        "numpy>=1.24",
        # Headless: a robot or a server has no libGL, and nothing here opens a window. Since OpenCV 5 AKAZE is among
        # the contributed modules.
        "opencv-contrib-python-headless>=4.8",
        "pillow>=10.0",
        "pyyaml>=6.0",
        "rich>=13.0",
        "rosbags>=0.11",
        "safetensors>=0.4",
        "timm>=1.0.9",
        "torch>=2.2",
    ],
    extras_require={
        "ros": ROS_WHEELS,
        "train": ["jsonargparse[signatures]>=4.49", "lightning>=2.4", "tensorboard>=2.14"],
        "gvsl": ["lightning>=2.4", "monai>=1.4", "nibabel>=5.2"],  # pre-training on volumes and frames, registration
        "classical": ["SimpleITK>=2.3"],  # what benchmarks/registration.py compares with
        "mono": ["transformers>=4.45"],  # depth from a monocular network, in training
        "evaluate": ["kornia>=0.9; python_version >= '3.11'"],  # learned matchers to compare with
        "test": ["packaging", "pytest>=7.4", "scipy>=1.10"],  # colcon test runs pytest only where this extra names it
        "lint": ["mypy>=1.11", "ruff>=0.6", "types-PyYAML"],
        "docs": ["furo>=2024.8", "myst-parser>=4.0", "sphinx>=8.1", "sphinxcontrib-mermaid>=2.0"],  # make docs
    },
    entry_points={
        "console_scripts": [
            f"endomatch = {NAME}.cli:main",
            f"matcher_node = {NAME}.ros.node:main",
            f"endoscope_publisher = {NAME}.ros.publisher:main",
            f"train_matcher = {NAME}.training.cli:executable",
        ],
    },
)
