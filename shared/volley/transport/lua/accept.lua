-- Tell which of these results are the ones that count, and delete the others.
--
-- after   fence.lua, incarnation.lua
-- ARGV    3... result id, number, result id, number, ...
-- answer  the ids that outstanding points at
-- repeat  harmless: nothing that outstanding points at is touched
local accepted = {}
for i = 3, #ARGV, 2 do
  local id, number = ARGV[i], ARGV[i + 1]
  if redis.call('HGET', outstanding, number) == 'r:' .. id then
    accepted[#accepted + 1] = id
  else
    redis.call('XDEL', results, id)
  end
end
return accepted
