"""Run kernels on a machine without a GPU: in Triton's interpreter, and by compiling them without a launch."""

import os
import subprocess
import sys
from pathlib import Path


def run_python(code: str, **environment: str) -> str:
    """Run code in a process of its own, because triton decides when it is imported whether it interprets or compiles.

    Test modules of ``tests/kernels`` can be imported there.  Returns what was printed; fails with the traceback.
    """
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path} | environment
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr  # Genesis prints tracebacks on the one, Python on the other
    return done.stdout


def interpret(code: str) -> str:
    """`run_python` with every triton kernel interpreted, on CPU tensors."""
    return run_python(code, TRITON_INTERPRET="1")


class Compiler:
    """Stands in for a triton kernel: a launch compiles it for an NVIDIA GPU of compute capability 8.0, and no more.

    The interpreter accepts programs that the compiler refuses.  Neither a GPU nor a driver is needed.
    """

    TYPES = {"torch.int8": "i8", "torch.int32": "i32", "torch.int64": "i64", "torch.bool": "i1"}
    TYPES |= {"torch.float32": "fp32", "torch.bfloat16": "bf16"}

    def __init__(self, kernel):
        self.kernel = kernel
        self.compiled = []

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, enable_fp_fusion, num_warps=4, num_stages=3, **constants):
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self.kernel.arg_names
        signature = dict.fromkeys(names, "constexpr") | dict(zip(names, map(self._type, args), strict=False))
        places = {(names.index(name),): value for name, value in constants.items()}
        source = ASTSource(self.kernel, signature, constexprs=places)
        options = {"enable_fp_fusion": enable_fp_fusion, "num_warps": num_warps, "num_stages": num_stages}
        self.compiled.append(triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options))

    def _type(self, arg) -> str:
        if isinstance(arg, (int, float)):
            return "i32" if isinstance(arg, int) else "fp32"
        return f"*{self.TYPES[str(arg.dtype)]}"
