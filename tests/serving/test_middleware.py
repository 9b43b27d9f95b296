"""Every request passes the token check; every response has security headers."""

import httpx

from tests.serving.conftest import (
    BLANK,
    PREDICT,
    assert_error,
    instances,
    running_server,
)


def test_clients_must_send_the_token(model_dir, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with running_server(model_dir, f"--token_file={tmp_path}/token") as server:
        with httpx.Client(base_url=server.url) as client:
            for token in (None, "Bearer wrong", "Basic secret", "secret"):
                headers = {"authorization": token} if token else {}
                response = client.post(PREDICT, content=b"", headers=headers)
                assert_error(response, 401, "token")
                assert response.headers["www-authenticate"] == "Bearer"
            headers = {"authorization": "Bearer secret"}
            body = instances(BLANK)
            response = client.post(PREDICT, content=body, headers=headers)
            assert response.status_code == 200
            assert client.get("/metrics").status_code == 401
            for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
                assert client.get(path).status_code == 200
        assert not any("secret" in line for line in server.lines)


def test_every_response_has_security_headers(client):
    for path in ("/", "/nowhere", "/healthz", "/docs"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
