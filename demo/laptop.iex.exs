# SPDX-License-Identifier: Apache-2.0
#
# What ./dev laptop evaluates in its iex session.
host = String.to_atom(System.fetch_env!("GPU_SCHED_DEMO_HOST"))
true = Node.connect(host)

IO.puts("""

This is a laptop, #{node()}: a plain node that has none of our modules. The host is bound to `host`;
try

    :erpc.call(host, GpuSched, :models, [GpuSched])
    :erpc.call(host, GpuSched, :infer, [GpuSched, "minilm", %{"text" => ["hello"]}])

and an answer in parts, which come as messages:

    data = %{"datatype" => "UINT8", "shape" => [5], "data" => "hello"}
    :erpc.call(host, GpuSched, :stream_to, [GpuSched, "ticker", %{"data" => data}, self(), [parameters: %{"parts" => 5}]])
    flush()

a job, which goes on whether or not this node does, and its bar, drawn here:

    {:ok, job} = :erpc.call(host, GpuSched, :submit, [GpuSched, "gemm", [parameters: %{"seconds" => 10}]])
    :erpc.call(host, GpuSched, :watch, [job])
""")
