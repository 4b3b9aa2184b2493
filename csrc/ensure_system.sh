#!/bin/sh
# ensure_system.sh [PYTHON]: makes sure that Python with venv and its headers, a C++ compiler, HDF5's headers and EGL are
# here: installs what is missing where that is possible without asking anybody, otherwise prints the command that does.
# Only EGL may stay missing: nothing is built with it.  No other Python takes the place of one that was named.
set -u
python=${1:-python3}

any_exists() {
    for path in "$@"; do [ -e "$path" ] && return 0; done
    return 1
}

has_python() { "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; }

# Some systems leave them out of their Python.
has_venv_and_headers() {
    "$python" -c 'import ensurepip, os, sysconfig as s, venv
raise SystemExit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' >/dev/null 2>&1
}

has_compiler() { command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1; }

has_hdf5() {
    pkg-config --exists hdf5 2>/dev/null || any_exists /usr/include/hdf5.h /usr/include/hdf5/serial/hdf5.h \
        /usr/local/include/hdf5.h /opt/homebrew/include/hdf5.h "${CONDA_PREFIX:-/nowhere}/include/hdf5.h" \
        "${HDF5_ROOT:-/nowhere}/include/hdf5.h"
}

# The simulator opens OpenGL through EGL in every scene on Linux; EGL needs a driver, a "vendor", too.
has_egl() {
    [ "$(uname)" = Linux ] || return 0
    ldconfig -p 2>/dev/null | grep -q 'libEGL\.so\.1' || any_exists /usr/lib/libEGL.so.1 /usr/lib64/libEGL.so.1 \
        /usr/lib/*/libEGL.so.1 "${CONDA_PREFIX:-/nowhere}/lib/libEGL.so.1" || return 1
    any_exists /usr/share/glvnd/egl_vendor.d/*.json /etc/glvnd/egl_vendor.d/*.json
}

# install PACKAGES_OF_APT PACKAGES_OF_DNF [PACKAGES_OF_HOMEBREW]
install() {
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="no"; fi
    fi
    if [ "$as_root" != no ] && command -v apt-get >/dev/null 2>&1; then
        echo "Installing $1 with apt-get."
        $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $1
    elif [ "$as_root" != no ] && command -v dnf >/dev/null 2>&1; then
        echo "Installing $2 with dnf."
        $as_root dnf install -y -q $2
    elif [ "$(uname)" = Darwin ] && command -v brew >/dev/null 2>&1; then
        echo "Installing $3 with Homebrew."
        brew install -q "$3"
    fi
}

[ $# -gt 0 ] || has_python || install "python3 python3-venv python3-dev" "python3 python3-devel" python@3.13
if ! has_python; then
    echo "Python 3.11, 3.12 or 3.13 is needed; where it has another name: make PYTHON=/path/to/python" >&2
    exit 1
fi
name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
has_venv_and_headers || install "$name-venv $name-dev" python3-devel "$name"
{ has_compiler && has_hdf5; } || install "g++ libhdf5-dev" "gcc-c++ hdf5-devel" hdf5
has_egl || install "libegl1 libgl1 libgl1-mesa-dri" "mesa-libEGL mesa-libGL mesa-dri-drivers"

has_egl || cat >&2 <<'TEXT'
Warning: EGL is missing, through which the simulator opens OpenGL. Install it with the line of your system:
  Debian, Ubuntu:  sudo apt-get install libegl1 libgl1 libgl1-mesa-dri
  Fedora:          sudo dnf install mesa-libEGL mesa-libGL mesa-dri-drivers
TEXT
has_venv_and_headers && has_compiler && has_hdf5 && exit 0

cat >&2 <<'TEXT'
Python's venv or headers, a C++ compiler or the HDF5 headers are missing. Install them with the line of your system, then
run make again:
  Debian, Ubuntu:  sudo apt-get install python3-venv python3-dev g++ libhdf5-dev
  Fedora:          sudo dnf install python3-devel gcc-c++ hdf5-devel
  macOS:           xcode-select --install; brew install hdf5
  conda:           conda install -c conda-forge cxx-compiler hdf5
TEXT
exit 1
