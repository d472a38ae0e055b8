"""Step time and memory of routed layers at Qwen3 shapes, with torch alone and random weights.

    python -m bench.gpu_layers --out DIR            # a CUDA GPU with 80 GB, under 3 minutes
    python -m bench.gpu_layers --device cpu --tiny --out DIR

It answers what a mixed step costs beside single-size steps, and a low-rank student beside a dense
one, without vLLM's kernels, scheduler or sampling.  Correctness is asserted first, on a tiny shape
in float32.  `routes` says which layers run on which rows (and what they must read), `model` runs
them, `checks` compares, `timing` measures, `shape_run` chooses what to measure, `report` writes.
"""
