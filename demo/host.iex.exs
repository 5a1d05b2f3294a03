# SPDX-License-Identifier: Apache-2.0
#
# What ./dev host evaluates in its iex session.
{:ok, _} = Application.ensure_all_started(:gpu_sched)
{children, _} = Code.eval_file(Path.join(__DIR__, "models.exs"))
{:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)

IO.puts("""

This is the host, #{node()}. The scheduler runs under supervision; try

    GpuSched.devices(GpuSched)
    GpuSched.await_ready(GpuSched)
    GpuSched.infer(GpuSched, "minilm", %{"text" => ["hello", "world"]})

or open a laptop beside it, in another terminal: ./dev laptop is a node without our code, and ./dev connect
one that gets it from here.
""")
