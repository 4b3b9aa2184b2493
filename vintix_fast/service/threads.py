"""Which cores threads run on, where the environment tells OpenMP to tie threads to cores, as many clusters' does.

OpenMP then ties the main thread to the first core when torch is loaded, and every thread that is started later inherits
that core: the simulator's, the decoder's and the writer's would share it.
"""

from __future__ import annotations

import ctypes
import os
import sys

BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")


def unbind_threads() -> None:
    """Leave threads to the system, on all cores that the process was given; to be called before they are started.

    Says on standard error what it overrules; child processes inherit that and say nothing.
    """
    given = [f"{name}={os.environ[name]}" for name in BINDING if os.environ.get(name)]
    if not given or os.environ.get("OMP_PROC_BIND", "").lower() == "false":
        return
    os.environ["OMP_PROC_BIND"] = "false"  # overrules the others; read once, when torch is loaded
    if "torch" in sys.modules and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, _cores() or os.sched_getaffinity(0))
    said = ", ".join(given)
    print(f"vintix-fast: {said} would tie all of its threads to one core; they run on all it may use", file=sys.stderr)


def _cores() -> set[int]:
    """All cores that OpenMP shares out: those that the process had when torch was loaded."""
    openmp, cores = ctypes.CDLL(None), set()
    if hasattr(openmp, "omp_get_place_proc_ids"):
        for place in range(openmp.omp_get_num_places()):
            ids = (ctypes.c_int * openmp.omp_get_place_num_procs(place))()
            openmp.omp_get_place_proc_ids(place, ids)
            cores.update(ids)
    return cores
