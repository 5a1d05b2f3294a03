# SPDX-License-Identifier: Apache-2.0
#
# The demo's laptop: a plain Elixir node. It has no module of gpu_sched; everything it does is to
# call functions on another node.
defmodule Tour do
  @host String.to_atom(System.fetch_env!("GPU_SCHED_DEMO_HOST"))

  @sentences [
    "The cat slept on the warm windowsill all afternoon.",
    "A kitten was chasing a ball of wool across the floor.",
    "Our dog barks whenever the postman comes to the door.",
    "The puppy learned to fetch a stick from the lake.",
    "Horses grazed quietly behind the wooden fence.",
    "Swallows return to the same barn every spring.",
    "Knead the dough until it is smooth and elastic.",
    "Bake the bread for forty minutes in a hot oven.",
    "Add a pinch of salt to the soup before serving.",
    "She fried the onions slowly in butter until they were golden.",
    "The recipe asks for two eggs and a cup of flour.",
    "Fresh basil makes the tomato sauce taste of summer.",
    "Heavy rain is expected in the north tonight.",
    "A thunderstorm passed over the valley in the evening.",
    "Snow closed the mountain road for three days.",
    "The morning fog lifted and the sun came out.",
    "Strong winds brought down several trees near the coast.",
    "It has not rained here for six weeks.",
    "The central bank raised interest rates again.",
    "Shares fell sharply after the company's profit warning.",
    "Inflation is slowing, but prices remain high.",
    "The startup raised ten million in its first round of funding.",
    "Investors are worried about the growing national debt.",
    "The airline reported record earnings this quarter.",
    "The function returns an error when the list is empty.",
    "A race condition made the test fail only on slow machines.",
    "The compiler removes code that can never be reached.",
    "Restarting the server freed the leaked memory.",
    "We moved the queries to an index, and the page loads at once.",
    "The program crashed because a pointer was null.",
    "The striker scored twice in the last ten minutes.",
    "She won the marathon in just under two and a half hours.",
    "The home team lost on penalties after extra time.",
    "He served three aces in the final set of the match.",
    "The cyclists climbed the pass in freezing rain.",
    "Our goalkeeper saved a penalty in the first half."
  ]

  # Of the sentences above, by their place.
  @shown [1, 7, 19, 25, 32]
  # One of each topic, none of which the classifier is trained on.
  @asked [3, 8, 13, 21, 29, 30]

  @texts 2_000
  @callers 100

  def run do
    connect()
    look_around()
    compare_sentences()
    send_many()
    watch_a_stream()
    train_a_classifier()
    provoke_an_error()
    title("That was all")
  end

  # Everything below is made of this one call.
  defp host!(function, arguments) do
    case :erpc.call(@host, GpuSched, function, [GpuSched | arguments]) do
      {:ok, answer} -> answer
      {:error, error} -> raise "#{function}: #{error.reason}: #{error.message}"
    end
  end

  defp connect do
    title("This is #{node()}, a node without our code")
    IO.puts("is the module GpuSched here? #{Code.ensure_loaded?(GpuSched)}")
    true = Node.connect(@host)
    # For the one place where this node waits for messages rather than for a call.
    true = Node.monitor(@host, true)
    IO.puts("connected to #{@host}")
  end

  defp look_around do
    title("What is there")

    for device <- host!(:devices, []) do
      state = if device["usable"], do: device["state"], else: "not usable: #{device["reason"]}"
      IO.puts("  #{pad(device["name"])} #{state}; #{device["cores"]} cores; #{device["model"]}")
    end

    for model <- host!(:models, []) do
      inputs = model["inputs"] |> Enum.map(& &1["name"]) |> Enum.uniq() |> Enum.join(", ")
      IO.puts("  #{pad(model["name"])} #{model["state"]}; #{model["engine"]}; takes #{inputs}")
    end
  end

  # -- nearest neighbours ---------------------------------------------------------------------

  defp compare_sentences do
    title("#{length(@sentences)} sentences, and which of them mean the same")
    result = host!(:infer, ["minilm", %{"text" => @sentences}, [timeout: 30_000]])
    tensor = result["outputs"] |> Map.values() |> hd()
    [_count, width] = tensor["shape"]
    vectors = for <<row::binary-size(width * 4) <- tensor["data"]>>, do: floats(row)
    known = Enum.zip(@sentences, vectors)

    for index <- @shown do
      {sentence, vector} = Enum.at(known, index)
      IO.puts("\n  #{sentence}")

      known
      |> List.delete_at(index)
      |> Enum.map(fn {other, its_vector} -> {dot(vector, its_vector), other} end)
      |> Enum.sort(:desc)
      |> Enum.take(2)
      |> Enum.each(fn {cosine, other} ->
        IO.puts("    #{:erlang.float_to_binary(cosine, decimals: 2)}  #{other}")
      end)
    end
  end

  defp floats(row), do: for(<<x::little-float-32 <- row>>, do: x)
  defp dot(a, b), do: Enum.zip_reduce(a, b, 0.0, fn x, y, sum -> sum + x * y end)

  # -- load -------------------------------------------------------------------------------------

  defp send_many do
    title("#{@texts} texts of mixed length from #{@callers} processes at once")
    texts = make_texts()
    # The first requests meet cold caches on the host.
    Enum.each(Enum.take(texts, 20), &embed/1)

    before = counters()
    {together_us, together} = :timer.tc(fn -> from_many_processes(texts) end)
    batches = counters()

    IO.puts("                 texts/s   p50 ms   p99 ms")
    report("all at once", together_us, together)

    {alone_us, alone} = :timer.tc(fn -> Enum.map(texts, &embed/1) end)
    report("one by one", alone_us, alone)

    size =
      (batches["batched_requests"] - before["batched_requests"]) /
        max(batches["batches"] - before["batches"], 1)

    IO.puts(
      "  sent at once: mean batch size #{round_to(size, 1)}, " <>
        "#{round_to(alone_us / together_us, 1)} times the throughput of one by one"
    )
  end

  defp counters, do: host!(:stats, [])["models"]["minilm"]

  # The time that one text took, in µs.
  defp embed(text) do
    inputs = ["minilm", %{"text" => [text]}, [timeout: 120_000, overload: :wait]]
    {us, _result} = :timer.tc(fn -> host!(:infer, inputs) end)
    us
  end

  defp from_many_processes(texts) do
    texts
    |> Enum.chunk_every(div(@texts, @callers))
    |> Enum.map(fn own -> Task.async(fn -> Enum.map(own, &embed/1) end) end)
    |> Task.await_many(:infinity)
    |> Enum.concat()
  end

  defp report(name, us, latencies) do
    sorted = Enum.sort(latencies)
    p = fn share -> Enum.at(sorted, trunc(share * (@texts - 1))) / 1000 end

    IO.puts(
      "  #{String.pad_trailing(name, 13)}" <>
        column(@texts * 1.0e6 / us) <> column(p.(0.5)) <> column(p.(0.99))
    )
  end

  defp column(number), do: number |> round_to(1) |> String.pad_leading(9)
  defp round_to(number, digits), do: :erlang.float_to_binary(number * 1.0, decimals: digits)

  # From 3 to about 120 words, most of them short; the same at each run.
  defp make_texts do
    :rand.seed(:exsss, {2, 7, 1828})

    words =
      @sentences |> Enum.join(" ") |> String.downcase() |> String.split(~r/[^a-z]+/, trim: true)

    words = List.to_tuple(words)

    for _ <- 1..@texts do
      length = min(3 + trunc(-12 * :math.log(:rand.uniform())), 120)
      Enum.map_join(1..length, " ", fn _ -> elem(words, :rand.uniform(tuple_size(words)) - 1) end)
    end
  end

  # -- parts ------------------------------------------------------------------------------------

  defp watch_a_stream do
    title("An answer in eight parts, as they come")
    data = %{"datatype" => "UINT8", "shape" => [5], "data" => "hello"}
    options = [parameters: %{"parts" => 8}, credit: 2, timeout: 30_000]
    start = System.monotonic_time(:millisecond)
    ref = host!(:stream_to, ["ticker", %{"data" => data}, self(), options])
    watch(ref, start)
  end

  defp watch(ref, start) do
    receive do
      {^ref, {:part, part}} ->
        show_part(part, start)
        :erpc.cast(@host, GpuSched, :grant, [GpuSched, ref, 1])
        watch(ref, start)

      {^ref, {:done, last}} ->
        show_part(last, start)

      {^ref, {:error, error}} ->
        raise "#{error.reason}: #{error.message}"

      {:nodedown, @host} ->
        raise "the host has gone"
    end
  end

  defp show_part(part, start) do
    <<number::little-32>> = part["outputs"]["part"]["data"]
    IO.puts("  part #{number} after #{System.monotonic_time(:millisecond) - start} ms")
  end

  # -- a job ------------------------------------------------------------------------------------

  # Labelled sentences go over, a classifier is trained on them over there, and served at once.
  defp train_a_classifier do
    title("A classifier of one's own, trained over there")
    folder = Path.join(on_host(System, :tmp_dir!, []), "gpu_sched-demo-#{System.pid()}")
    examples = File.read!(Path.join(__DIR__, "topics.jsonl"))
    :ok = on_host(File, :mkdir_p, [folder])

    try do
      data = Path.join(folder, "topics.jsonl")
      :ok = on_host(File, :write, [data, examples])
      train(data, Path.join(folder, "topics"))
    after
      on_host(File, :rm_rf!, [folder])
    end
  end

  defp train(data, out) do
    parameters = %{
      "model" => on_host(System, :fetch_env!, ["GPU_SCHED_DEMO_MODEL"]),
      "data" => data,
      "out" => out,
      "epochs" => 100
    }

    job = host!(:submit, ["train", [parameters: parameters, name: "topics"]])
    IO.puts("  the job is #{inspect(job)}; it would go on if this laptop fell asleep\n")

    # The bar is drawn here, from over there.
    case :erpc.call(@host, GpuSched, :watch, [job]) do
      {:ok, result} -> ask(result)
      {:error, error} -> raise "#{error.reason}: #{error.message}"
    end
  end

  defp ask(result) do
    accuracy = round_to(100 * result["accuracy"], 0)

    IO.puts(
      "  #{result["examples"]} examples of #{result["classes"]} classes, of which it gets " <>
        "#{accuracy} % right. Sentences it does not know:"
    )

    host!(:load, ["topics", [path: result["path"]]])
    sentences = Enum.map(@asked, &Enum.at(@sentences, &1))
    outputs = host!(:infer, ["topics", %{"text" => sentences}, [timeout: 30_000]])["outputs"]
    %{"shape" => [_count, classes], "data" => scores} = outputs["scores"]
    rows = for <<row::binary-size(classes * 4) <- scores>>, do: floats(row)

    [outputs["label"]["data"], rows, sentences]
    |> Enum.zip()
    |> Enum.each(fn {label, row, sentence} ->
      IO.puts("    #{pad(label)} #{round_to(Enum.max(row), 2)}  #{sentence}")
    end)

    :ok = :erpc.call(@host, GpuSched, :unload, [GpuSched, "topics"])
  end

  defp on_host(module, function, arguments), do: :erpc.call(@host, module, function, arguments)

  # -- an error -----------------------------------------------------------------------------------

  defp provoke_an_error do
    title("A mistake")
    call = [GpuSched, "minilm", %{"txet" => ["hello"]}]
    {:error, error} = :erpc.call(@host, GpuSched, :infer, call)
    IO.puts("  infer with the input \"txet\" answers {:error, error}, where")
    IO.puts("    error.reason  is #{inspect(error.reason)}")
    IO.puts("    error.message is #{inspect(error.message)}")
  end

  defp title(text), do: IO.puts("\n== #{text}")
  defp pad(name), do: String.pad_trailing(name, 8)
end

Tour.run()
