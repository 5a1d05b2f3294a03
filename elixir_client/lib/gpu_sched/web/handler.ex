# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Web.Handler do
  # What OTP's httpd calls for each request, in a process of the connection.
  @moduledoc false

  alias GpuSched.{Json, Metrics, Snapshot}
  alias GpuSched.Web.{Cache, Host}

  @compile {:no_warn_undefined, [:httpd_util]}

  @external_resource Path.join(__DIR__, "page.html")
  @page File.read!(Path.join(__DIR__, "page.html"))

  # The page may run what is in it and ask this server, and nothing else.
  @policy ~c"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; " ++
            ~c"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; " ++
            ~c"frame-ancestors 'none'"

  # A record of inets, which need not be there when this is compiled:
  # {:mod, init_data, data, socket_type, socket, config_db, method, absolute_uri, request_uri,
  #  http_version, request_line, parsed_header, …}
  def unquote(:do)(mod) do
    config = elem(mod, 5)
    method = elem(mod, 6)
    path = mod |> elem(8) |> to_string() |> String.split("?") |> hd()

    host = :proplists.get_value(~c"host", elem(mod, 11), nil)

    cond do
      method not in [~c"GET", ~c"HEAD"] ->
        respond(405, ~c"text/plain", "only GET\n", method)

      not Host.ours?(host, :httpd_util.lookup(config, :gpu_sched_hosts, [])) ->
        respond(403, ~c"text/plain", Host.refusal(), method)

      true ->
        cache = :httpd_util.lookup(config, :gpu_sched_cache)
        {code, type, body} = answer(path, :httpd_util.lookup(config, :gpu_sched), cache)
        respond(code, type, body, method)
    end
  end

  defp answer("/", _server, _cache), do: {200, ~c"text/html; charset=utf-8", @page}

  defp answer("/metrics", server, _cache) do
    case Metrics.text(server) do
      {:ok, text} -> {200, ~c"text/plain; version=0.0.4; charset=utf-8", text}
      {:error, error} -> {503, ~c"text/plain; charset=utf-8", [error.message, "\n"]}
    end
  end

  defp answer("/state.json", server, cache) do
    now = System.monotonic_time(:millisecond)

    case Cache.fetch(cache, :state, now, fn -> Snapshot.take(server) end) do
      {:ok, state} ->
        {200, ~c"application/json", Json.encode(Map.put(state, "server", inspect(server)))}

      {:error, error} ->
        {503, ~c"application/json", Json.encode(%{"error" => error.message})}
    end
  end

  defp answer(_path, _server, _cache),
    do: {404, ~c"text/plain", "there are /, /metrics and /state.json\n"}

  defp respond(code, type, body, method) do
    body = IO.iodata_to_binary(body)

    head = [
      code: code,
      content_type: type,
      content_length: body |> byte_size() |> Integer.to_charlist(),
      cache_control: ~c"no-store",
      "content-security-policy": @policy,
      "x-content-type-options": ~c"nosniff"
    ]

    body = if method == ~c"HEAD", do: :nobody, else: [body]
    {:proceed, [response: {:response, head, body}]}
  end
end
