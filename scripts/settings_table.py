"""Print the table of docs/settings.md: each setting of the server, its default, what it does."""

from pydantic.fields import FieldInfo

from server.settings import PREFIX, Settings
from server.vllm_options import VllmOptions


def table() -> str:
    """The table, as Markdown."""
    rows = ["| setting | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{PREFIX}{name}`".upper() + f" | {_default(field)} | {_text(field)} |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    if field.default in (None, (), VllmOptions()):
        return ""
    shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return f"`{shown}`"


def _text(field: FieldInfo) -> str:
    assert field.description is not None, "every setting says what it does"
    return field.description.replace("|", "\\|")


if __name__ == "__main__":
    print(table())
