#!/bin/sh
# Makes sure that a C++ compiler and HDF5's headers are here: installs what is missing where that is possible without
# asking anybody, otherwise prints the command that does.
set -u

has_compiler() { command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1; }

has_hdf5() {
    pkg-config --exists hdf5 2>/dev/null && return 0
    for folder in /usr/include /usr/include/hdf5/serial /usr/local/include /opt/homebrew/include "${CONDA_PREFIX:-/nowhere}/include" \
        "${HDF5_ROOT:-/nowhere}/include"; do
        [ -e "$folder/hdf5.h" ] && return 0
    done
    return 1
}

has_compiler && has_hdf5 && exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="no"; fi
fi
echo "A C++ compiler or the HDF5 headers are missing."
if [ "$as_root" != no ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing g++ and libhdf5-dev with apt-get."
    $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq g++ libhdf5-dev
elif [ "$as_root" != no ] && command -v dnf >/dev/null 2>&1; then
    echo "Installing gcc-c++ and hdf5-devel with dnf."
    $as_root dnf install -y -q gcc-c++ hdf5-devel
elif [ "$(uname)" = Darwin ] && command -v brew >/dev/null 2>&1; then
    echo "Installing hdf5 with Homebrew."
    brew install -q hdf5
fi
has_compiler && has_hdf5 && exit 0

cat >&2 <<'TEXT'
Install them with the line of your system, then run make again:
  Debian, Ubuntu:  sudo apt-get install g++ libhdf5-dev
  Fedora:          sudo dnf install gcc-c++ hdf5-devel
  macOS:           xcode-select --install; brew install hdf5
  conda:           conda install -c conda-forge cxx-compiler hdf5
TEXT
exit 1
