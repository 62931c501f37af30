#!/usr/bin/env bash
# Makes the virtual environment that serves: install_serve.sh VENV SOURCE, SOURCE being the repository or a wheel of it.
# The image runs this script, and so does a test outside any container; what it leaves is what serves.
set -euo pipefail
[ $# = 2 ] || { echo "usage: install_serve.sh VENV SOURCE" >&2; exit 2; }
venv=$1
source=$2
constraints=${CONSTRAINTS:-$(dirname "$0")/../constraints.txt}
python=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

# 1. Install. pip stays outside: the environment that serves cannot install anything.
"$python" -m venv --clear --without-pip "$venv"
"$python" -m pip --python "$venv/bin/python" install --quiet --no-compile --constraint "$constraints" \
    "$(realpath "$source")[serve]" mlflow-skinny

# 2. Take away what no import of the daemon reaches: headers and sources, test suites, pyarrow's RPC and S3 clients.
packages=$(echo "$venv"/lib/python3*/site-packages)
rm -rf "$packages"/pyarrow/{include,src,tests,_flight.*,flight.py,libarrow_flight.*,libarrow_python_flight.*,_s3fs.*,libarrow_s3.*} \
    "$packages"/onnxruntime/{transformers,quantization,tools,datasets}
find "$packages" -type d -name tests -prune -exec rm -rf {} +
find "$packages" -type f \( -name '*.pyx' -o -name '*.pxi' -o -name '*.pxd' -o -name '*.pyi' \) -delete

# 3. Import what serving imports, which proves step 2, and write bytecode for those modules alone: a read-only container
#    can never write it, and a daemon that compiles MLflow at every start is slow to start.
"$venv/bin/python" -I - <<'PY'
import importlib, pkgutil, py_compile, sys

for package in ("bundle", "cli", "daemon", "observability", "scoring", "serving"):
    module = importlib.import_module(f"anomvae.{package}")
    for found in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
        importlib.import_module(found.name)
for name in ("anomvae.references", "anomvae.tracking.registry", "mlflow.tracking", "mlflow.artifacts", "pyarrow.compute",
             "pyarrow.parquet", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.on",
             "grpc.aio", "orjson"):
    importlib.import_module(name)
for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None) or ""
    if path.startswith(sys.prefix) and path.endswith(".py"):
        py_compile.compile(path, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
PY
