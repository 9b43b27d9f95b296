"""The peer of serve.py: LitServe over the same model.tflite, as its documentation does.

    python -m benchmarks.peer_server MODEL_DIR PORT

Takes `{"instances": [image]}` and answers `{"predictions": [[probability, ...]]}`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Api(litserve.LitAPI):
    """One image in, ten probabilities out."""

    def setup(self, device: str) -> None:
        """Loads the model, once a worker."""
        content = Path(sys.argv[1], "model.tflite").read_bytes()
        threads = os.cpu_count()
        self.model = Interpreter(model_content=content, num_threads=threads)
        self.serve = self.model.get_signature_runner("serve")

    def decode_request(self, request: dict[str, Any], **_: Any) -> np.ndarray:
        """Reads the image."""
        return np.array(request["instances"], np.uint8)

    def predict(self, x: np.ndarray, **_: Any) -> np.ndarray:
        """Asks the model."""
        return self.serve(images=x)["probabilities"]

    def encode_response(self, output: np.ndarray, **_: Any) -> dict[str, Any]:
        """Writes the answer."""
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="error")
