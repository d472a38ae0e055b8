"""The endpoints that are ours; those of OpenAI's protocol are in `server/engine/serving.py`."""
