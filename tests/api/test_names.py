"""A family that goes by several names."""

import httpx
import pytest

from tests.api.servers import Running

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("name", ["tiny", "gpt-4o", "org/tiny"])
def test_a_family_goes_by_each_of_its_names(other: Running, name: str) -> None:
    other.wait_until_ready()
    table = other.family.table
    student = f"{name}@{table.student.id}"
    with httpx.Client(base_url=other.url, timeout=60) as http:
        listed = [card["id"] for card in http.get("/v1/models").json()["data"]]
        assert listed[:3] == ["tiny", "gpt-4o", "org/tiny"]
        assert http.get(f"/v1/models/{name}").json()["id"] == name
        for model, path, asked in (
            (name, "/v1/completions", {"prompt": "x"}),
            (student, "/v1/completions", {"prompt": "x"}),
            (student, "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ):
            reply = http.post(path, json={"model": model, "max_tokens": 1, **asked})
            assert reply.status_code == 200, reply.text
            if model == student:
                assert reply.json()["model"] == table.model_id(table.student)
        body = {"model": student, "prompt": "hello"}
        assert http.post("/tokenize", json=body).json()["count"] == 5
        resolved = http.post("/v1/sizes/resolve", json={"model": student}).json()
        assert resolved["model"] == table.model_id(table.student)
