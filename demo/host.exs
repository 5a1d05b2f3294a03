# SPDX-License-Identifier: Apache-2.0
#
# The demo's host: a node with the scheduler under supervision. It tells that it is ready by making
# a file, and ends when its standard input does.
{:ok, _} = Application.ensure_all_started(:gpu_sched)
{children, _} = Code.eval_file(Path.join(__DIR__, "models.exs"))
{:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)

case GpuSched.await_ready(GpuSched, :all) do
  {:ok, _models} ->
    File.write!(System.fetch_env!("GPU_SCHED_DEMO_READY"), "")

  {:error, error} ->
    IO.puts(:stderr, "the models could not be loaded: #{Exception.message(error)}")
    System.halt(1)
end

IO.read(:stdio, :line)
Supervisor.stop(supervisor)
System.halt(0)
