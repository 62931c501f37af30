-- wrk's script: POSTs prepared bodies in turn, and ends with the figures as one line of JSON.
-- Arguments after `--`: a file per body, until the word `headers`; then names and values of headers in turn.
local requests, turn = {}, 0

function init(args)
   local place = 1
   local bodies = {}
   while args[place] ~= "headers" do
      local file = assert(io.open(args[place], "rb"))
      bodies[#bodies + 1] = file:read("*a")
      file:close()
      place = place + 1
   end
   wrk.method = "POST"
   for name = place + 1, #args, 2 do
      wrk.headers[args[name]] = args[name + 1]
   end
   if #bodies == 1 then
      wrk.body = bodies[1]
      return
   end
   for number, body in ipairs(bodies) do
      requests[number] = wrk.format(nil, nil, nil, body)
   end
   request = function()
      turn = turn % #requests + 1
      return requests[turn]
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\nfigures {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "refused": %d, "broken": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.status, errors.connect + errors.read + errors.write + errors.timeout
   ))
end
