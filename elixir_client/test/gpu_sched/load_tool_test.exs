# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.LoadToolTest do
  # What GpuSched.Load measures, beside what ApacheBench does: a tool of others, in another language,
  # on the same target, which answers in times that are known.
  use ExUnit.Case, async: false

  alias GpuSched.{HttpTarget, Load}

  unless System.find_executable("ab"),
    do: @moduletag(skip: "ab is not installed (Debian: apache2-utils)")

  @moduletag :tmp_dir
  @moduletag timeout: 180_000

  # Half of them 20 ms, four in ten 60 ms, one in ten 200 ms: 54 ms each.
  @ms [20, 60, 20, 60, 20, 200, 20, 60, 20, 60]
  @mean 54
  @callers 8
  # Percentiles in the middle of what is answered in the same time, and that time.
  @levels [{25, 20}, {70, 60}, {95, 200}]

  test "rates and percentiles are those of ApacheBench", %{tmp_dir: dir} do
    port = HttpTarget.start(@ms)

    # Each may be disturbed by what the machine does beside; a unit or a method that is wrong is wrong
    # every time.
    agreed =
      Enum.reduce_while(1..20, nil, fn _, _ ->
        {ours, theirs} = {ours(port), theirs(port, dir)}

        for {percent, ms} <- @levels, measured <- [ours, theirs] do
          # No answer comes before its time.
          assert measured[percent] >= ms, "p#{percent}: #{measured[percent]} ms"
        end

        # Nor more of them than there are callers for.
        most = @callers * 1_000 / @mean
        assert ours.rate <= most * 1.05 and theirs.rate <= most * 1.05

        if agree?(ours, theirs), do: {:halt, :yes}, else: {:cont, {ours, theirs}}
      end)

    assert agreed == :yes
  end

  defp agree?(ours, theirs) do
    near?(ours.rate, theirs.rate, 0.1, 0) and
      Enum.all?(@levels, fn {percent, _ms} ->
        near?(ours[percent], theirs[percent], 0.1, 5)
      end)
  end

  defp near?(a, b, share, more), do: abs(a - b) <= max(share * b, more)

  defp ours(port) do
    options = [
      concurrency: @callers,
      duration: 2_000,
      warmup: 200,
      payload: [%{}],
      progress: false
    ]

    [point] = Load.run(HttpTarget.ask(port), options).points
    assert point["failed"] == 0
    measured = for {percent, _ms} <- @levels, do: {percent, Load.percentile_ms(point, percent)}
    measured |> Map.new() |> Map.put(:rate, point["throughput"])
  end

  defp theirs(port, dir) do
    csv = Path.join(dir, "ab.csv")
    args = ~w(-q -c #{@callers} -n 300 -e #{csv} http://127.0.0.1:#{port}/)
    {out, 0} = System.cmd("ab", args, stderr_to_stdout: true)
    assert out =~ ~r/Failed requests:\s+0\n/
    [_, rate] = Regex.run(~r/Requests per second:\s+([\d.]+)/, out)

    percents =
      for line <- csv |> File.read!() |> String.split("\n", trim: true) |> tl(), into: %{} do
        [percent, ms] = String.split(line, ",")
        {String.to_integer(percent), String.to_float(ms)}
      end

    percents |> Map.take(Enum.map(@levels, &elem(&1, 0))) |> Map.put(:rate, String.to_float(rate))
  end
end
