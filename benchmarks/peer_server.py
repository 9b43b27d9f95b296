"""The peer of serve.py: LitServe with the same model, as its documentation shows.

    python -m benchmarks.peer_server MODEL_DIR PORT

POST /predict takes `{"instances": [image]}` and returns
`{"predictions": [[probability, ...]]}`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Api(litserve.LitAPI):
    """Maps an image to the probability of each class."""

    def setup(self, device: str) -> None:
        """Loads the model; called once per worker."""
        content = Path(sys.argv[1], "model.tflite").read_bytes()
        threads = os.cpu_count()
        self.model = Interpreter(model_content=content, num_threads=threads)
        self.serve = self.model.get_signature_runner("serve")

    def decode_request(self, request: dict[str, Any], **_: Any) -> np.ndarray:
        """Returns the images of a request, uint8 [n, H, W]."""
        return np.array(request["instances"], np.uint8)

    def predict(self, x: np.ndarray, **_: Any) -> np.ndarray:
        """Returns the probabilities, float32 [n, C]."""
        return self.serve(images=x)["probabilities"]

    def encode_response(self, output: np.ndarray, **_: Any) -> dict[str, Any]:
        """Returns the JSON object of the response."""
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="error")
