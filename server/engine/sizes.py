"""How a size travels from a request to the worker: one key in `SamplingParams.extra_args`."""

from typing import Any

SIZE_KEY = "boomerang_size"
"""`extra_args` key of a request's size; a request without it runs at the teacher's size."""


def is_size(value: object, teacher_size: int) -> bool:
    """Whether `value` is a size of a ladder whose largest size is `teacher_size`."""
    return type(value) is int and 0 <= value <= teacher_size


def requested(sampling_params: Any) -> object:
    """What a request asks for (any type: it came from a client), or None."""
    extra_args = getattr(sampling_params, "extra_args", None)
    return extra_args.get(SIZE_KEY) if extra_args else None


def size_of(sampling_params: Any, teacher_size: int) -> int:
    """The size that a request runs at, always in ``[0, teacher_size]``.

    Admission refuses bad sizes in the front end.  One that got past it (an engine without our
    admission class) runs at the teacher's size, since an exception in the worker or the
    scheduler would end the engine for everyone.
    """
    value = requested(sampling_params)
    return value if isinstance(value, int) and is_size(value, teacher_size) else teacher_size


def remembered_size(request: Any, teacher_size: int) -> int:
    """`size_of` what a request asks for, kept on it: it is asked for many times in each step."""
    try:
        found: int = request.boomerang_size
    except AttributeError:
        found = request.boomerang_size = size_of(request.sampling_params, teacher_size)
    return found
