import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fm.errors import UserError
from tasks.answering import check_answers


def test_what_answers_but_is_no_ray_and_what_does_not_answer_are_told_apart() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match="something answers there that is no Ray cluster; give the address"):
            check_answers(f"127.0.0.1:{server.server_port}")
        server.shutdown()
    with pytest.raises(UserError, match="no Ray cluster answers"):
        check_answers(f"127.0.0.1:{server.server_port}")


def test_a_frame_of_settings_is_an_answer_and_a_word_is_left_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            link, _ = server.accept()
            with link:
                link.sendall(b"\0\0\0\4\0\0\0\0\0")

        threading.Thread(target=answer, daemon=True).start()
        check_answers(f"127.0.0.1:{server.getsockname()[1]}")
    check_answers("local")
    check_answers("auto")
