"""Installs the package; every name, version and requirement comes from settings.ini."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
readme = here / "README.md"
pythons = [f"Programming Language :: Python :: 3.{minor}" for minor in range(int(cfg["min_python"].split(".")[1]), 14)]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    keywords=cfg["keywords"],
    license="Apache-2.0",
    classifiers=["Development Status :: 3 - Alpha", f"Intended Audience :: {cfg['audience']}", *pythons],
    packages=find_packages(include=["omr", "omr.*"]),
    # Weights (safetensors beside card and configuration), embedded data, and what a browser gets; tests/test_guards.py holds other places to be empty.
    package_data={"omr": ["weights/**/*", "data/**/*", "static/**/*"]},
    include_package_data=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={"dev": shlex.split(cfg["dev_requirements"])},
    entry_points={"console_scripts": shlex.split(cfg["console_scripts"])},
    zip_safe=False,
)
