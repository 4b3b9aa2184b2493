#!/bin/sh
# build_hdf5.sh PREFIX [SOURCE]: a static HDF5 in PREFIX, for a wheel that needs none of the system's.  No compression,
# tools or C++: the trajectory writer uses none.  SOURCE is the sources' folder or archive; else they are fetched.
set -eu
prefix=$1
version=1.14.5
source=${2:-https://github.com/HDFGroup/hdf5/archive/refs/tags/hdf5_$version.tar.gz}
work=$prefix/build
rm -rf "$work" && mkdir -p "$work"
case $source in
    http*) curl -fsSL "$source" | tar -xz -C "$work" --strip-components=1 ;;
    *) if [ -d "$source" ]; then cp -r "$source/." "$work"; else tar -xf "$source" -C "$work" --strip-components=1; fi ;;
esac
cmake -S "$work" -B "$work/out" -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_INSTALL_LIBDIR=lib -DBUILD_SHARED_LIBS=OFF -DBUILD_TESTING=OFF \
    -DHDF5_BUILD_TOOLS=OFF -DHDF5_BUILD_EXAMPLES=OFF -DHDF5_BUILD_CPP_LIB=OFF -DHDF5_BUILD_HL_LIB=OFF \
    -DHDF5_ENABLE_Z_LIB_SUPPORT=OFF -DHDF5_ENABLE_SZIP_SUPPORT=OFF
cmake --build "$work/out" --parallel "${JOBS:-2}"
cmake --install "$work/out"
rm -rf "$work"
